//! The gateway: accept, identify, detect, authorise, resolve, dial, replay and splice, record.
//! It needs no privilege.

pub mod admit;
pub mod alert;
pub mod answered;
pub mod authorise;
pub mod connection;
pub mod count;
pub mod detect;
pub mod dial;
pub mod dns;
pub mod hosts;
pub mod http;
pub mod identify;
pub mod inherit;
pub mod listen;
pub mod protocol;
pub mod reason;
pub mod refuse;
pub mod resolve;
pub mod seal;
pub mod serve;
pub mod shed;
pub mod silence;
pub mod spawn;
pub mod splice;
pub mod table;
pub mod worker;

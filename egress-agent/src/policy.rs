//! What an endpoint may reach: the language, its compiled form and its evaluation. Pure: no
//! kernel, no cluster, no runtime.

pub mod compile;
pub mod ech;
pub mod evaluate;
pub mod flag;
pub mod host;
pub mod http;
pub mod load;
pub mod path;
pub mod port;
pub mod rule;
pub mod schema;
pub mod select;

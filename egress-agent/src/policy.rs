//! What an endpoint may reach: the language, its compiled form and its evaluation. Pure: no
//! kernel, no cluster, no runtime.

pub mod compile;
pub mod diff;
pub mod ech;
pub mod evaluate;
pub mod expect;
pub mod explain;
pub mod flag;
pub mod grant;
pub mod host;
pub mod http;
pub mod lint;
pub mod load;
pub mod path;
pub mod port;
pub mod rule;
pub mod schema;
pub mod select;
pub mod selection;
pub mod sources;
pub mod suggest;

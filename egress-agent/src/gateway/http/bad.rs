//! Why a request is refused before policy is asked: nobody could be sure that the server reads
//! it as we do.

use crate::policy::{host::HostNameError, path::PathError};

/// What is wrong with a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Bad {
    /// The request line is not a method, a target and a version, one space apart.
    RequestLine,
    /// A version other than HTTP/1.0 and HTTP/1.1.
    Version,
    /// The preface of HTTP/2 without TLS.
    PriorKnowledge,
    /// An upgrade to HTTP/2 without TLS.
    H2cUpgrade,
    /// An upgrade to WebSocket that is not asked for as it must be.
    Upgrade,
    /// CONNECT without a port, or with what it must not have.
    Connect,
    /// A line that ends in LF alone.
    BareLf,
    /// A CR that no LF follows.
    BareCr,
    /// A NUL byte.
    Nul,
    /// A field that goes on in the next line.
    Fold,
    /// White space before a field's colon.
    SpaceBeforeColon,
    /// The name of a field that is no token, or a line without a colon.
    FieldName,
    /// A control character in a field.
    FieldValue,
    /// The head has more than 32 KiB.
    LongHead,
    /// More than 100 fields.
    ManyFields,
    /// No `Host`, or an empty one.
    NoHost,
    /// `Host` more than once.
    SeveralHosts,
    /// `Host` and the URI in the request line name different servers.
    TargetDisagrees,
    /// The host is no host name.
    Host(HostNameError),
    /// A port that is none, or one in `Host` that was not dialled.
    Port,
    /// A URI of another scheme than http, or with a user in it.
    Scheme,
    /// The path has no normal form.
    Path(PathError),
    /// A character in the query that must be percent-encoded.
    Query,
    /// Both `Content-Length` and `Transfer-Encoding`.
    LengthAndEncoding,
    /// `Transfer-Encoding` other than chunked alone, more than once, or in HTTP/1.0.
    Encoding,
    /// A chunked body on a method that has none: servers that do not expect it take it for the
    /// next request.
    EncodingOfBodiless,
    /// `Content-Length` more than once.
    SeveralLengths,
    /// `Content-Length` that is not plain digits without leading zeros.
    Length,
    /// `Expect` other than 100-continue.
    Expect,
    /// A chunk's size that is not plain hexadecimal digits, or an extension.
    ChunkSize,
    /// A chunk whose data do not end where its size says.
    ChunkEnd,
    /// A trailer field that must not be one.
    Trailer,
    /// The head was not complete before the deadline.
    Timeout,
    /// The client ended within a request.
    Truncated,
}

impl Bad {
    /// The stable name in records.
    pub const fn reason(self) -> &'static str {
        match self {
            Self::RequestLine => "http_request_line",
            Self::Version => "http_version",
            Self::PriorKnowledge => "http_h2c_prior_knowledge",
            Self::H2cUpgrade => "http_h2c_upgrade",
            Self::Upgrade => "http_upgrade",
            Self::Connect => "http_connect",
            Self::BareLf => "http_bare_lf",
            Self::BareCr => "http_bare_cr",
            Self::Nul => "http_nul",
            Self::Fold => "http_obs_fold",
            Self::SpaceBeforeColon => "http_space_before_colon",
            Self::FieldName => "http_field_name",
            Self::FieldValue => "http_field_value",
            Self::LongHead => "http_head_too_long",
            Self::ManyFields => "http_too_many_fields",
            Self::NoHost => "http_no_host",
            Self::SeveralHosts => "http_several_hosts",
            Self::TargetDisagrees => "http_host_disagrees",
            Self::Host(error) => error.reason(),
            Self::Port => "http_port",
            Self::Scheme => "http_scheme",
            Self::Path(error) => error.reason(),
            Self::Query => "http_query",
            Self::LengthAndEncoding => "http_length_and_encoding",
            Self::Encoding => "http_transfer_encoding",
            Self::EncodingOfBodiless => "http_encoding_of_bodiless",
            Self::SeveralLengths => "http_several_lengths",
            Self::Length => "http_length",
            Self::Expect => "http_expect",
            Self::ChunkSize => "http_chunk_size",
            Self::ChunkEnd => "http_chunk_end",
            Self::Trailer => "http_trailer",
            Self::Timeout => "http_timeout",
            Self::Truncated => "http_truncated",
        }
    }
}

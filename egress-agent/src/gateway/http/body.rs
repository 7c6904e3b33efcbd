//! Bodies on their way: never held as a whole, counted as they pass.

use std::{
    pin::Pin,
    rc::Rc,
    task::{Context, Poll, ready},
};

use hyper::body::{Body, Bytes, Frame, Incoming, SizeHint};
use tokio::time::Instant;

use super::exchange::Exchange;

/// Which way a body goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Way {
    /// To the server.
    Up,
    /// To the endpoint; when it is over, so is the exchange.
    Down,
}

/// A body that is passed on.
pub(super) struct Passing {
    inner: Incoming,
    way: Way,
    exchange: Rc<Exchange>,
}

impl Passing {
    pub(super) fn new(inner: Incoming, way: Way, exchange: Rc<Exchange>) -> Self {
        if way == Way::Down && inner.is_end_stream() {
            exchange.end("eof");
        }
        Self {
            inner,
            way,
            exchange,
        }
    }

    fn count(&self, bytes: usize) {
        let counted = match self.way {
            Way::Up => &self.exchange.bytes.sent,
            Way::Down => &self.exchange.bytes.received,
        };
        counted.set(counted.get() + bytes as u64);
        self.exchange.link.moved.set(Instant::now());
    }
}

impl Body for Passing {
    type Data = Bytes;
    type Error = hyper::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        let mut frame = ready!(Pin::new(&mut self.inner).poll_frame(cx));
        if self.way == Way::Up
            && let Some(Ok(frame)) = &mut frame
            && let Some(trailers) = frame.trailers_mut()
        {
            self.exchange.keep_new(trailers);
        }
        match &frame {
            Some(Ok(frame)) => self.count(frame.data_ref().map_or(0, Bytes::len)),
            Some(Err(_)) if self.way == Way::Down => self.exchange.end("upstream_reset"),
            Some(Err(_)) | None => {}
        }
        if frame.is_none() || self.inner.is_end_stream() {
            match self.way {
                Way::Down => self.exchange.end("eof"),
                Way::Up => {
                    self.exchange.is_sending.set(false);
                    self.exchange.rest();
                }
            }
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        self.inner.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.inner.size_hint()
    }
}

/// The body of an answer.
pub(super) enum Answer {
    /// The server's.
    Server(Passing),
    /// Our own.
    Own(Option<Bytes>),
}

impl Body for Answer {
    type Data = Bytes;
    type Error = hyper::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        match &mut *self {
            Self::Server(body) => Pin::new(body).poll_frame(cx),
            Self::Own(text) => Poll::Ready(text.take().map(|text| Ok(Frame::data(text)))),
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Server(body) => body.is_end_stream(),
            Self::Own(text) => text.is_none(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Server(body) => body.size_hint(),
            Self::Own(text) => SizeHint::with_exact(text.as_ref().map_or(0, Bytes::len) as u64),
        }
    }
}

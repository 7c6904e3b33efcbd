//! The client's side of a connection, as the HTTP library behind it sees it: one request at a
//! time, each checked and judged before its first byte is handed on, and no byte of the next.

use std::{
    io,
    mem::MaybeUninit,
    pin::Pin,
    rc::Rc,
    task::{Context, Poll, ready},
};

use hyper::rt::{Read, ReadBufCursor, Write};
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::TcpStream,
    time::{Instant, Sleep, sleep_until},
};

use super::{
    bad::Bad,
    connect,
    framing::Body,
    head,
    judge::{Step, judge, judge_connect},
    link::{Link, Stop},
};
use crate::gateway::reason::Reason;

/// Room for one read.
const READ: usize = 8 << 10;

/// A connection of which only whole and checked requests are read.
pub(super) struct Checked {
    stream: TcpStream,
    link: Rc<Link>,
    /// What was read and not handed on.
    raw: Vec<u8>,
    /// How much at its front may be handed on.
    cleared: usize,
    phase: Phase,
    /// When the next head must be there.
    deadline: Pin<Box<Sleep>>,
    /// Whether that is this head's already: its time begins when the one before is answered.
    is_due: bool,
}

/// Where in a request it is.
enum Phase {
    /// In a head, of which so much was looked at.
    Head(usize),
    /// In a body.
    Body(Body),
    /// Nothing more is handed on.
    Stopped,
}

impl Checked {
    pub(super) fn new(stream: TcpStream, raw: Vec<u8>, link: Rc<Link>) -> Self {
        let deadline = Instant::now() + link.shared().limits.hello;
        Self {
            stream,
            link,
            raw,
            cleared: 0,
            phase: Phase::Head(0),
            deadline: Box::pin(sleep_until(deadline)),
            is_due: true,
        }
    }

    /// The connection, and what was read and not handed on.
    pub(super) fn into_parts(self) -> (TcpStream, Vec<u8>) {
        (self.stream, self.raw)
    }

    /// Whether bytes may be handed on now, or none will be.
    fn poll_clear(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while self.cleared == 0 {
            match &mut self.phase {
                Phase::Stopped => return Poll::Ready(Ok(())),
                Phase::Head(_) if !self.is_due => self.set_deadline(),
                Phase::Head(looked) => match head::end(&self.raw, *looked) {
                    Ok(Some(end)) => self.judge_head(end),
                    Ok(None) => {
                        *looked = self.raw.len();
                        ready!(self.poll_more_of_head(cx))?;
                    }
                    Err(bad) => self.judge(Err(bad)),
                },
                Phase::Body(_) if self.raw.is_empty() => {
                    if ready!(self.poll_fill(cx))? == 0 {
                        self.phase = Phase::Stopped;
                    }
                }
                Phase::Body(body) => match body.advance(&self.raw) {
                    Ok(count) => {
                        self.cleared = count;
                        if body.is_done() {
                            self.await_head();
                        }
                    }
                    Err(bad) => return Poll::Ready(Err(self.refuse(bad))),
                },
            }
        }
        Poll::Ready(Ok(()))
    }

    fn judge_head(&mut self, end: usize) {
        if connect::is_connect(&self.raw[..end]) {
            return self.judge_connect(end);
        }
        let parsed = head::parse(&self.raw[..end], self.link.ask.port);
        let framing = parsed.as_ref().ok().map(|head| head.framing);
        self.judge(parsed);
        if let (Phase::Head(_), Some(framing)) = (&self.phase, framing) {
            self.cleared = end;
            self.link.moved.set(Instant::now());
            let body = Body::new(framing);
            match body.is_done() {
                true => self.await_head(),
                false => self.phase = Phase::Body(body),
            }
        }
    }

    fn judge_connect(&mut self, end: usize) {
        let stop = judge_connect(&self.link, connect::parse(&self.raw[..end]));
        if stop == Stop::Connect {
            self.raw.drain(..end);
        }
        self.link.stopped.set(Some(stop));
        self.phase = Phase::Stopped;
    }

    /// Asks what becomes of a head, and stops where it is not to be served.
    fn judge(&mut self, head: Result<head::Head, Bad>) {
        match judge(&self.link, head) {
            Step::Serve(judged) => {
                let judged = Rc::new(judged);
                self.link.answered.set(false);
                *self.link.running.borrow_mut() = Some(judged.clone());
                *self.link.next.borrow_mut() = Some(judged);
            }
            Step::Stop(stop) => {
                self.link.stopped.set(Some(stop));
                self.phase = Phase::Stopped;
            }
        }
    }

    /// A body that is not what it must be: too late for anything but to refuse it.
    fn refuse(&mut self, bad: Bad) -> io::Error {
        self.link.stopped.set(Some(Stop::Refuse(Reason::Http(bad))));
        self.phase = Phase::Stopped;
        io::Error::other(bad.reason())
    }

    fn await_head(&mut self) {
        self.phase = Phase::Head(0);
        self.is_due = false;
    }

    fn set_deadline(&mut self) {
        let limits = &self.link.shared().limits;
        // Some of it may have been sent before its turn.
        let limit = match self.raw.is_empty() {
            true => limits.keep_alive,
            false => limits.hello,
        };
        self.deadline.as_mut().reset(Instant::now() + limit);
        self.is_due = true;
    }

    /// More of a head, until its deadline.
    fn poll_more_of_head(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let was_empty = self.raw.is_empty();
        // A client that resets has ended, too.
        match self.poll_fill(cx).map(Result::unwrap_or_default) {
            Poll::Ready(0) if was_empty => self.phase = Phase::Stopped,
            Poll::Ready(0) => self.judge(Err(Bad::Truncated)),
            Poll::Ready(_) if was_empty => {
                let deadline = Instant::now() + self.link.shared().limits.hello;
                self.deadline.as_mut().reset(deadline);
            }
            Poll::Ready(_) => {}
            Poll::Pending => {
                ready!(self.deadline.as_mut().poll(cx));
                match was_empty {
                    true => self.phase = Phase::Stopped,
                    false => self.judge(Err(Bad::Timeout)),
                }
            }
        }
        Poll::Ready(Ok(()))
    }

    fn poll_fill(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<usize>> {
        let mut room = [MaybeUninit::uninit(); READ];
        let mut room = ReadBuf::uninit(&mut room);
        ready!(Pin::new(&mut self.stream).poll_read(cx, &mut room))?;
        self.raw.extend_from_slice(room.filled());
        Poll::Ready(Ok(room.filled().len()))
    }
}

impl Read for Checked {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        mut buf: ReadBufCursor<'_>,
    ) -> Poll<io::Result<()>> {
        ready!(self.poll_clear(cx))?;
        let count = self.cleared.min(buf.remaining());
        buf.put_slice(&self.raw[..count]);
        self.raw.drain(..count);
        self.cleared -= count;
        Poll::Ready(Ok(()))
    }
}

impl Write for Checked {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    /// What comes last is said by whoever knows why.
    fn poll_shutdown(self: Pin<&mut Self>, _cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(cx, bufs)
    }
}

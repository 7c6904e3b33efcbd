//! The gateway's process: control messages on one thread, a runtime per worker on the others.

use std::{
    convert::Infallible,
    io,
    net::SocketAddr,
    rc::Rc,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    thread,
    time::Duration,
};

use thiserror::Error;
use tokio::{
    io::{AsyncBufRead, AsyncWrite, BufReader},
    net::UnixStream,
    runtime,
    sync::{mpsc, oneshot, watch},
    task::LocalSet,
    time::{Instant, interval, sleep_until},
};

use super::{
    answered::Answered,
    count::Counters,
    dns::log::RefusalLog,
    http,
    identify::Identify,
    listen::{self, ListenError, Sockets},
    protocol::{
        Configure, ControlError, FromGateway, TO_GATEWAY_MAX, ToGateway, read_message,
        write_message, write_messages,
    },
    refuse::Refused,
    resolve::{Resolver, SetupError, cache::Cache},
    table::Table,
    worker::{Open, Records, Shared, Worker},
};
use crate::telemetry::record::{Event, Lost, Record};

/// Records under way to the enforcer; more are counted as lost.
const RECORD_QUEUE: usize = 8_192;
/// Records that are written at once.
const RECORDS_AT_ONCE: usize = 512;
/// How long records are collected after some were written: a worker wakes nobody meanwhile.
const RECORDS_PAUSE: Duration = Duration::from_millis(2);
/// How often refused look-ups are summed up and losses told.
const TICK: Duration = Duration::from_secs(1);

/// Why the gateway ends.
#[derive(Debug, Error)]
pub enum ServeError {
    /// The control stream.
    #[error(transparent)]
    Control(#[from] ControlError),
    /// The first message is not `Configure`, or another one is.
    #[error("the enforcer must send Configure first, and once")]
    Order,
    /// A socket.
    #[error(transparent)]
    Listen(#[from] ListenError),
    /// The resolver.
    #[error(transparent)]
    Resolver(#[from] SetupError),
    /// A thread or its runtime.
    #[error("cannot start a worker: {0}")]
    Worker(#[source] io::Error),
}

impl ServeError {
    /// Whether the enforcer knows of it by a message.
    pub fn was_told(&self) -> bool {
        match self {
            Self::Listen(_) | Self::Resolver(_) | Self::Worker(_) => true,
            Self::Control(_) | Self::Order => false,
        }
    }
}

/// Serves until the control stream ends. Call it on a current-thread runtime.
///
/// # Errors
/// It cannot listen, or the control stream breaks; the enforcer was told where that is possible.
pub async fn serve(control: UnixStream, identify: Arc<dyn Identify>) -> Result<(), ServeError> {
    let (read, mut write) = control.into_split();
    let mut read = BufReader::new(read);
    let Some(first) = read_message(&mut read, TO_GATEWAY_MAX).await? else {
        return Ok(());
    };
    let ToGateway::Configure(configure) = first else {
        return Err(ServeError::Order);
    };
    let started = start(configure, identify).await;
    let gateway = match started {
        Ok(gateway) => gateway,
        Err(error) => {
            let message = error.to_string();
            write_message(&mut write, &FromGateway::Failed { message }).await?;
            return Err(error);
        }
    };
    let ready = FromGateway::Ready {
        listen: gateway.listen.clone(),
        dns: gateway.dns.clone(),
    };
    write_message(&mut write, &ready).await?;
    gateway.control(read, write).await
}

/// A gateway that listens.
struct Gateway {
    listen: Vec<SocketAddr>,
    dns: Vec<SocketAddr>,
    table: watch::Sender<Arc<Table>>,
    records: mpsc::Receiver<Record>,
    shared: Shared,
    drains: watch::Sender<bool>,
    /// Ends when nothing is being served any more.
    under_way: mpsc::Receiver<Infallible>,
    /// Workers that do not serve yet, with what they will.
    waiting: Vec<(Sockets, oneshot::Sender<Start>)>,
    /// Dropped, they end the workers.
    _stop: Vec<oneshot::Sender<()>>,
}

/// What a worker is to serve, and whom it tells that it does.
type Start = (Sockets, oneshot::Sender<io::Result<()>>);

async fn start(
    mut configure: Configure,
    identify: Arc<dyn Identify>,
) -> Result<Gateway, ServeError> {
    let (table, tables) = watch::channel(Arc::<Table>::default());
    let (queue, records) = mpsc::channel(RECORD_QUEUE);
    let (drains, is_draining) = watch::channel(false);
    let (working, under_way) = mpsc::channel(1);
    let shared = Shared {
        identify,
        table: tables,
        records: Records::new(queue),
        counters: Counters::default(),
        limits: Arc::new(configure.limits.clone()),
        open: Open::default(),
        drains: is_draining,
        answered: Answered::new(configure.answer_grace),
        refusals: Arc::new(Mutex::new(RefusalLog::default())),
    };
    let workers = configure
        .workers
        .unwrap_or_else(|| thread::available_parallelism().map_or(1, std::num::NonZero::get));
    let inherited = std::mem::take(&mut configure.inherited);
    let waits = !inherited.is_empty();
    let sets = if waits {
        // SAFETY: the enforcer has started this process with them, and says so once.
        let mut sets = unsafe { inherited.share(workers) }.map_err(ServeError::Worker)?;
        // The gateway that they are from may have been ending already.
        listen::complete(&mut sets, &configure.listen, &configure.dns)?;
        sets
    } else {
        let open = |_| Sockets::open(&mut configure.listen, &mut configure.dns);
        (0..workers.max(1)).map(open).collect::<Result<_, _>>()?
    };
    let mut own = configure.own_addresses.clone();
    own.extend(
        configure
            .listen
            .iter()
            .chain(&configure.dns)
            .map(SocketAddr::ip),
    );
    let refused = Refused::new(configure.permitted_answers.clone(), own)
        .and_networks(configure.refused_answers.clone())
        .and_of(shared.table.clone());
    let cache = Arc::new(Cache::new(configure.cache.clone()));
    let tls = http::tls::config(&configure.roots);
    let (mut stop, mut waiting) = (Vec::new(), Vec::new());
    for (number, sockets) in sets.into_iter().enumerate() {
        let (shared, refused, configure) = (shared.clone(), refused.clone(), configure.clone());
        let (cache, tls) = (cache.clone(), tls.clone());
        let under_way = working.clone();
        let (ready, is_ready) = oneshot::channel();
        let (start, started) = oneshot::channel();
        let (stopper, stopped) = oneshot::channel();
        thread::Builder::new()
            .name(format!("gateway-{number}"))
            .spawn(move || {
                let made = || {
                    let resolver = Resolver::new(&configure, refused, cache)?;
                    Ok(Worker {
                        shared,
                        resolver,
                        tls,
                        pool: Rc::default(),
                        under_way,
                    })
                };
                run_worker(made, ready, started, stopped);
            })
            .map_err(ServeError::Worker)?;
        is_ready.await.unwrap_or_else(|_closed| Err(died()))?;
        stop.push(stopper);
        waiting.push((sockets, start));
    }
    let mut gateway = Gateway {
        listen: configure.listen,
        dns: configure.dns,
        table,
        records,
        shared,
        drains,
        under_way,
        waiting,
        _stop: stop,
    };
    if !waits {
        gateway.serve().await?;
    }
    Ok(gateway)
}

/// Takes the next records, those that have been told until `due` and since. Nothing is lost where it is
/// cancelled.
async fn collected(
    records: &mut mpsc::Receiver<Record>,
    batch: &mut Vec<Record>,
    due: Instant,
) -> usize {
    sleep_until(due).await;
    records.recv_many(batch, RECORDS_AT_ONCE).await
}

async fn write_records(
    write: &mut (impl AsyncWrite + Unpin),
    records: impl IntoIterator<Item = Record>,
) -> Result<(), ControlError> {
    let records = records.into_iter().map(Box::new).map(FromGateway::Record);
    write_messages(write, &records.collect::<Vec<_>>()).await
}

fn died() -> ServeError {
    ServeError::Worker(io::Error::other("its thread ended"))
}

fn run_worker(
    worker: impl FnOnce() -> Result<Worker, SetupError>,
    ready: oneshot::Sender<Result<(), ServeError>>,
    started: oneshot::Receiver<Start>,
    stopped: oneshot::Receiver<()>,
) {
    let runtime = match runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => return drop(ready.send(Err(ServeError::Worker(error)))),
    };
    let local = LocalSet::new();
    local.block_on(&runtime, async move {
        let worker = match worker() {
            Ok(worker) => Rc::new(worker),
            Err(error) => return drop(ready.send(Err(error.into()))),
        };
        if ready.send(Ok(())).is_err() {
            return;
        }
        // Gone, the gateway ends as a whole.
        let Ok((sockets, done)) = started.await else {
            return;
        };
        let served = sockets.serve(&worker);
        // What it serves has it from now on.
        drop(worker);
        if done.send(served).is_ok() {
            // Either way it is over: the sender was dropped.
            drop(stopped.await);
        }
    });
}

impl Gateway {
    /// Has the workers take connections and look-ups.
    async fn serve(&mut self) -> Result<(), ServeError> {
        for (mut sockets, worker) in self.waiting.drain(..) {
            if sockets.dns_udp.is_empty() {
                // Not before, since the kernel shares datagrams out among all sockets.
                let own = self.dns.iter().map(|address| listen::udp(*address));
                sockets.dns_udp = own.collect::<Result<_, _>>()?;
            }
            let (done, is_done) = oneshot::channel();
            worker.send((sockets, done)).map_err(|_closed| died())?;
            let served = is_done.await.map_err(|_closed| died())?;
            served.map_err(ServeError::Worker)?;
        }
        Ok(())
    }

    async fn control(
        mut self,
        mut read: impl AsyncBufRead + Unpin + Send + 'static,
        mut write: impl AsyncWrite + Unpin,
    ) -> Result<(), ServeError> {
        // Reading a message cannot be cancelled half-way, so it has a task of its own.
        let (incoming, mut messages) = mpsc::channel(1);
        let reader = tokio::spawn(async move {
            while let Some(message) = read_message(&mut read, TO_GATEWAY_MAX).await.transpose() {
                let failed = message.is_err();
                if incoming.send(message).await.is_err() || failed {
                    break;
                }
            }
        });
        let mut tick = interval(TICK);
        let mut was_told = false;
        let (mut batch, mut due) = (Vec::new(), Instant::now());
        let ended = loop {
            tokio::select! {
                message = messages.recv() => match message {
                    None => break Ok(()),
                    Some(Err(error)) => break Err(error.into()),
                    Some(Ok(ToGateway::Drain)) => drop(self.drains.send_replace(true)),
                    Some(Ok(message)) => match self.answer(message).await {
                        Ok(answer) => write_message(&mut write, &answer).await?,
                        Err(error) => break Err(error),
                    },
                },
                _count = collected(&mut self.records, &mut batch, due) => {
                    write_records(&mut write, batch.drain(..)).await?;
                    due = Instant::now() + RECORDS_PAUSE;
                }
                _over = self.under_way.recv(), if *self.drains.borrow() && !was_told => {
                    was_told = true;
                    write_records(&mut write, self.last_records()).await?;
                    write_message(&mut write, &FromGateway::Drained).await?;
                }
                _ = tick.tick() => self.sum_up(),
            }
        };
        reader.abort();
        ended
    }

    async fn answer(&mut self, message: ToGateway) -> Result<FromGateway, ServeError> {
        match message {
            ToGateway::Configure(_) | ToGateway::Drain => Err(ServeError::Order),
            ToGateway::Endpoints(endpoints) => {
                let generation = endpoints.generation;
                let table = Arc::new(Table::new(&endpoints));
                self.table.send_replace(table.clone());
                self.shared.answered.keep(&table);
                Ok(FromGateway::Applied { generation })
            }
            ToGateway::Serve => Ok(match self.serve().await {
                Ok(()) => FromGateway::Serves,
                Err(error) => FromGateway::Failed {
                    message: error.to_string(),
                },
            }),
            ToGateway::Count => Ok(FromGateway::Counters(self.shared.counters.snapshot())),
        }
    }

    fn sum_up(&self) {
        for event in self.refusals().expire().into_iter().chain(self.lost()) {
            self.shared.records.tell(event);
        }
    }

    /// What there is to tell when nothing is being served any more.
    fn last_records(&mut self) -> Vec<Record> {
        let mut records: Vec<_> = std::iter::from_fn(|| self.records.try_recv().ok()).collect();
        let refusals = self.refusals().end();
        records.extend(refusals.into_iter().chain(self.lost()).map(Record::now));
        records
    }

    fn refusals(&self) -> MutexGuard<'_, RefusalLog> {
        let refusals = self.shared.refusals.lock();
        refusals.unwrap_or_else(PoisonError::into_inner)
    }

    fn lost(&self) -> Option<Event> {
        let count = self.shared.records.take_lost();
        (count > 0).then(|| {
            self.shared.counters.add_many("records_lost", count);
            Event::Lost(Lost {
                source: "gateway".to_owned(),
                count,
            })
        })
    }
}

//! The gateway's process: control messages on one thread, a runtime per worker on the others.

use std::{
    io,
    net::SocketAddr,
    rc::Rc,
    sync::{Arc, Mutex, PoisonError},
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
    time::interval,
};

use super::{
    count::Counters,
    dns::log::RefusalLog,
    identify::Identify,
    listen::{self, ListenError, Sockets},
    protocol::{
        Configure, ControlError, FromGateway, TO_GATEWAY_MAX, ToGateway, read_message,
        write_message,
    },
    refuse::Refused,
    resolve::{Resolver, SetupError},
    table::Table,
    worker::{Open, Records, Shared, Worker},
};
use crate::telemetry::record::{Event, Lost, Record};

/// Records under way to the enforcer; more are counted as lost.
const RECORD_QUEUE: usize = 8_192;
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
    /// Dropped, they end the workers.
    _stop: Vec<oneshot::Sender<()>>,
}

async fn start(
    mut configure: Configure,
    identify: Arc<dyn Identify>,
) -> Result<Gateway, ServeError> {
    let (table, tables) = watch::channel(Arc::<Table>::default());
    let (queue, records) = mpsc::channel(RECORD_QUEUE);
    let (drains, is_draining) = watch::channel(false);
    let shared = Shared {
        identify,
        table: tables,
        records: Records::new(queue),
        counters: Counters::default(),
        limits: Arc::new(configure.limits.clone()),
        open: Open::default(),
        drains: is_draining,
        waits: !configure.inherited.is_empty(),
        refusals: Arc::new(Mutex::new(RefusalLog::default())),
    };
    let workers = configure
        .workers
        .unwrap_or_else(|| thread::available_parallelism().map_or(1, std::num::NonZero::get));
    let inherited = std::mem::take(&mut configure.inherited);
    let sets = if inherited.is_empty() {
        let open = |_| Sockets::open(&mut configure.listen, &mut configure.dns);
        (0..workers.max(1)).map(open).collect::<Result<_, _>>()?
    } else {
        // SAFETY: the enforcer has started this process with them, and says so once.
        let mut sets = unsafe { inherited.share(workers) }.map_err(ServeError::Worker)?;
        for set in &mut sets {
            let own = configure.dns.iter().map(|address| listen::udp(*address));
            set.dns_udp = own.collect::<Result<_, _>>()?;
        }
        sets
    };
    let mut own = configure.own_addresses.clone();
    own.extend(
        configure
            .listen
            .iter()
            .chain(&configure.dns)
            .map(SocketAddr::ip),
    );
    let refused =
        Refused::new(configure.permitted_answers.clone(), own).and_of(shared.table.clone());
    let mut stop = Vec::new();
    for (number, sockets) in sets.into_iter().enumerate() {
        let (shared, refused, configure) = (shared.clone(), refused.clone(), configure.clone());
        let (ready, is_ready) = oneshot::channel();
        let (stopper, stopped) = oneshot::channel();
        thread::Builder::new()
            .name(format!("gateway-{number}"))
            .spawn(move || {
                let made = || Resolver::new(&configure, refused);
                run_worker(shared, sockets, made, ready, stopped);
            })
            .map_err(ServeError::Worker)?;
        let died = || ServeError::Worker(io::Error::other("its thread ended"));
        is_ready.await.map_err(|_closed| died())??;
        stop.push(stopper);
    }
    Ok(Gateway {
        listen: configure.listen,
        dns: configure.dns,
        table,
        records,
        shared,
        drains,
        _stop: stop,
    })
}

fn run_worker(
    shared: Shared,
    sockets: Sockets,
    resolver: impl FnOnce() -> Result<Resolver, SetupError>,
    ready: oneshot::Sender<Result<(), ServeError>>,
    stopped: oneshot::Receiver<()>,
) {
    let runtime = match runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => return drop(ready.send(Err(ServeError::Worker(error)))),
    };
    let local = LocalSet::new();
    local.block_on(&runtime, async move {
        let served = resolver().map_err(ServeError::from).and_then(|resolver| {
            let worker = Rc::new(Worker { shared, resolver });
            sockets.serve(&worker).map_err(ServeError::Worker)
        });
        let failed = served.is_err();
        if ready.send(served).is_ok() && !failed {
            // Either way it is over: the sender was dropped.
            drop(stopped.await);
        }
    });
}

impl Gateway {
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
        let ended = loop {
            tokio::select! {
                message = messages.recv() => match message {
                    None => break Ok(()),
                    Some(Err(error)) => break Err(error.into()),
                    Some(Ok(ToGateway::Drain)) => drop(self.drains.send_replace(true)),
                    Some(Ok(message)) => match self.answer(message) {
                        Ok(answer) => write_message(&mut write, &answer).await?,
                        Err(error) => break Err(error),
                    },
                },
                Some(record) = self.records.recv() => {
                    write_message(&mut write, &FromGateway::Record(Box::new(record))).await?;
                }
                _ = tick.tick() => {
                    self.sum_up();
                    if *self.drains.borrow() && !was_told && self.shared.open.count() == 0 {
                        was_told = true;
                        write_message(&mut write, &FromGateway::Drained).await?;
                    }
                }
            }
        };
        reader.abort();
        ended
    }

    fn answer(&mut self, message: ToGateway) -> Result<FromGateway, ServeError> {
        match message {
            ToGateway::Configure(_) | ToGateway::Drain => Err(ServeError::Order),
            ToGateway::Endpoints(endpoints) => {
                let generation = endpoints.generation;
                self.table.send_replace(Arc::new(Table::new(&endpoints)));
                Ok(FromGateway::Applied { generation })
            }
            ToGateway::Count => Ok(FromGateway::Counters(self.shared.counters.snapshot())),
        }
    }

    fn sum_up(&self) {
        let mut refusals = self
            .shared
            .refusals
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        for event in refusals.expire() {
            self.shared.records.tell(event);
        }
        let count = self.shared.records.take_lost();
        if count > 0 {
            self.shared.counters.add_many("records_lost", count);
            self.shared.records.tell(Event::Lost(Lost {
                source: "gateway".to_owned(),
                count,
            }));
        }
    }
}

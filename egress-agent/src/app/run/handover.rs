//! A running agent from which another one takes over.

use std::time::Duration;

use anyhow::bail;

use super::Running;
use crate::app::{
    handover::{Handed, Successor},
    lock::Lock,
    posture,
};

/// How long the last events may take from the kernel's buffers.
const LAST_EVENTS: Duration = Duration::from_millis(200);

impl Running {
    /// Says what a successor has to know, and waits until it serves. `None` where it does not get
    /// that far in time: then all is as before.
    pub(super) async fn hand_over(
        &mut self,
        mut successor: Successor,
    ) -> anyhow::Result<Option<Successor>> {
        eprintln!("another agent takes over");
        let handed = self.instance.hand_over(self.generation);
        let time = Duration::from_secs(self.config.hand_over.deadline_seconds);
        let served = tokio::time::timeout(time, self.until_served(&mut successor, handed));
        let why = match served.await {
            Ok(Ok(true)) => return Ok(Some(successor)),
            Ok(Ok(false)) => "it has gone".to_owned(),
            Ok(Err(error)) => return Err(error),
            Err(_elapsed) => {
                // Else it might go on later with what it had begun.
                successor.end().await;
                format!("it took longer than {time:?}, and was ended")
            }
        };
        eprintln!("egress-agent: the other agent did not take over ({why}): this one goes on");
        self.reclaim();
        Ok(None)
    }

    /// False where the successor goes. Records are written meanwhile.
    async fn until_served(
        &mut self,
        successor: &mut Successor,
        handed: Handed,
    ) -> anyhow::Result<bool> {
        if successor.hand(handed).await.is_err() {
            return Ok(false);
        }
        loop {
            tokio::select! {
                record = self.instance.next() => match record {
                    Some(record) => self.sink.write(&record),
                    None => bail!("the gateway ended while another agent took over"),
                },
                ready = successor.is_ready() => match ready {
                    Ok(()) => break,
                    Err(_gone) => return Ok(false),
                },
            }
        }
        // What the kernel has put into these buffers comes within a moment.
        tokio::time::sleep(LAST_EVENTS).await;
        for record in self.instance.last_records() {
            self.sink.write(&record);
        }
        // This agent may have been stopped for so long that nobody waits for it any more.
        Ok(successor.waits().await)
    }

    /// Takes back what a successor was to have. Where something cannot be, it is tried again with
    /// the next tick.
    pub(super) fn reclaim(&mut self) {
        if let Err(error) = self.instance.reclaim() {
            let why = error.to_string();
            if self.unreclaimed.as_ref() != Some(&why) {
                eprintln!("egress-agent: not everything can be taken back yet: {why}");
                self.unreclaimed = Some(why);
            }
            return;
        }
        self.unreclaimed = None;
        self.write_names();
        let links = self.instance.enforcer().links();
        let record = posture::node(
            "kept",
            &self.instance.plan(),
            true,
            links,
            self.instance.contained(),
        );
        self.sink.write(&record);
    }

    /// The end after a hand-over: the successor has the instance, and the gateway the connections
    /// that it still has, for as long as they may go on and nobody wants this agent to end.
    pub(super) async fn leave(
        mut self,
        lock: &mut Option<Lock>,
        mut successor: Successor,
        told_to_end: impl Future<Output = ()>,
    ) -> anyhow::Result<()> {
        drop(lock.take());
        successor.left().await;
        self.instance.drain().await?;
        let time = Duration::from_secs(self.config.hand_over.drain_seconds);
        eprintln!("handed over: what is connected goes on for up to {time:?}");
        let drained = async {
            while let Some(record) = self.instance.next_of_gateway().await {
                self.sink.write(&record);
            }
        };
        tokio::select! {
            () = drained => {}
            () = tokio::time::sleep(time) => {}
            () = told_to_end => {}
        }
        for record in self.instance.last_records() {
            self.sink.write(&record);
        }
        eprintln!("left");
        Ok(())
    }
}

//! What an instance tells of: events and windows of the kernel, records of the gateway.

use std::time::Duration;

use egress_common::event::previous_started;
use rustix::time::ClockId;

use super::{Instance, InstanceError};
use crate::{
    enforcer::{events::Report, own::Closed},
    gateway::protocol::FromGateway,
    telemetry::{
        kernel, process,
        record::{Event, Lost, Record},
    },
};

/// How long the last events may take from the kernel's buffers.
const LAST_EVENTS: Duration = Duration::from_millis(100);

impl Instance {
    /// Waits for the next record. `None` when the gateway has gone, or is drained.
    pub async fn next(&mut self) -> Option<Record> {
        loop {
            if let Some(record) = self.waiting.pop_front() {
                return Some(record);
            }
            tokio::select! {
                report = self.reports.recv() => {
                    let records = self.reported(report?);
                    self.waiting.extend(records);
                }
                message = self.from_gateway.recv() => {
                    if let Some(record) = self.record_of(message?) {
                        return Some(record);
                    }
                    if self.is_drained {
                        return None;
                    }
                }
            }
        }
    }

    /// What closed windows come to, and the programs' own diagnostics; call it every second.
    pub fn tick(&mut self) -> Result<Vec<Record>, InstanceError> {
        if let Some(log) = &mut self.log {
            log.flush();
        }
        self.enforcer.forget_silent(now_ns(ClockId::Monotonic))?;
        let over = self.enforcer.close_windows(now_ns(ClockId::Boottime))?;
        let told = over
            .iter()
            .map(|closed| (closed.key, previous_started(closed.started_ns)));
        // An event that is older than a second has come by now.
        self.told = [told.collect(), std::mem::take(&mut self.told[0])];
        Ok(over.iter().flat_map(|it| self.closed(it)).collect())
    }

    /// The last records, before the end: whatever is still on its way, then open windows.
    pub async fn finish(&mut self) -> Result<Vec<Record>, InstanceError> {
        tokio::time::sleep(LAST_EVENTS).await;
        let mut records = self.last_records();
        let over = self.enforcer.close_all_windows()?;
        records.extend(over.iter().flat_map(|it| self.closed(it)));
        Ok(records)
    }

    /// What has been told and not been written yet. Windows stay for whoever comes after.
    pub fn last_records(&mut self) -> Vec<Record> {
        let mut records = Vec::from(std::mem::take(&mut self.waiting));
        while let Ok(report) = self.reports.try_recv() {
            records.extend(self.reported(report));
        }
        while let Ok(message) = self.from_gateway.try_recv() {
            records.extend(self.record_of(message));
        }
        records
    }

    /// The next record of the gateway alone; `None` when it has gone, or no connection is left.
    pub async fn next_of_gateway(&mut self) -> Option<Record> {
        while !self.is_drained {
            let message = self.from_gateway.recv().await?;
            if let Some(record) = self.record_of(message) {
                return Some(record);
            }
        }
        None
    }

    fn record_of(&mut self, message: FromGateway) -> Option<Record> {
        self.is_drained |= message == FromGateway::Drained;
        match message {
            FromGateway::Record(record) => Some(enriched(*record)),
            FromGateway::Ready { .. }
            | FromGateway::Failed { .. }
            | FromGateway::Applied { .. }
            | FromGateway::Counters(_)
            | FromGateway::Serves
            | FromGateway::Drained => None,
        }
    }

    fn reported(&self, report: Report) -> Vec<Record> {
        match report {
            Report::Denied(event) => self.bypass(&event),
            Report::Lost(count) => vec![lost("perf", count)],
            Report::Malformed(_) => vec![lost("malformed", 1)],
        }
    }

    /// What a closed window tells: its first attempt, if no event has, and how many more there were.
    fn closed(&self, closed: &Closed) -> Vec<Record> {
        let name = |id| self.name(id);
        let mut names = self.names.get(&closed.key.endpoint).into_iter();
        let audit = names.any(|(_, audit)| *audit);
        let first = closed.is_untold.then(|| kernel::first(closed, audit, name));
        let repeated = (closed.repeats > 0).then(|| kernel::repeated(closed, audit, name));
        first.into_iter().chain(repeated).map(Record::now).collect()
    }

    /// The record of an event, after that of the window before, if the kernel has restarted that
    /// before it was closed here. (It may still have restarted what was just taken away.)
    fn bypass(&self, event: &egress_common::event::Event) -> Vec<Record> {
        let mut records = Vec::new();
        let began = Some(&event.previous_started);
        if !self.told.iter().any(|told| told.get(&event.key) == began) {
            records = self.closed(&Closed {
                key: event.key,
                layer: event.layer,
                started_ns: 0,
                is_untold: false,
                repeats: u64::from(event.previous).saturating_sub(1),
            });
        }
        let record = Record::now(kernel::bypass(event, |id| self.name(id)));
        records.push(enriched(record));
        records
    }

    fn name(&self, id: u32) -> String {
        let found = self.names.get(&id);
        found.map(|(name, _)| name.clone()).unwrap_or_default()
    }
}

pub(super) fn enriched(mut record: Record) -> Record {
    match &mut record.event {
        Event::ConnectionOpen(open) => process::add_executable(&mut open.attempt.process),
        Event::ConnectionClose(close) => process::add_executable(&mut close.open.attempt.process),
        Event::HttpRequest(request) => process::add_executable(&mut request.of.attempt.process),
        Event::Dns(refusal) => process::add_executable(&mut refusal.attempt.process),
        Event::Bypass(bypass) => process::add_executable(&mut bypass.attempt.process),
        Event::ConnectionsRepeated(_)
        | Event::BypassRepeated(_)
        | Event::Lost(_)
        | Event::Posture(_) => {}
    }
    record
}

fn lost(source: &str, count: u64) -> Record {
    Record::now(Event::Lost(Lost {
        source: source.to_owned(),
        count,
    }))
}

fn now_ns(clock: ClockId) -> u64 {
    let now = rustix::time::clock_gettime(clock);
    now.tv_sec as u64 * 1_000_000_000 + now.tv_nsec as u64
}

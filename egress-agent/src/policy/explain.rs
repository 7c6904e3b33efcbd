//! Why something is allowed or denied, by the decisions that kernel and gateway make.

use egress_common::verdict::{Service, Verdict};
use serde::Serialize;

use super::{
    compile::CompiledPolicy,
    evaluate::{Decision, TLS_ONLY},
    grant::{What, grants},
    http::HttpDecision,
    rule::{DirectEntry, Mode, Rule},
    select::Identity,
    sources::{List, RuleId, Site, Sources},
};
use node::NodeView;
use question::{Destination, Question};

mod nearest;
pub mod node;
pub mod question;

/// Who asks.
#[derive(Clone, Debug, Default)]
pub struct Subject {
    /// For the policies' selectors.
    pub identity: Identity,
    /// Over the policies' own.
    pub mode: Option<Mode>,
    /// Where it runs.
    pub node: NodeView,
}

/// The answer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Explanation {
    /// Who asked.
    pub from: String,
    /// What for.
    pub to: String,
    /// What comes of it.
    pub verdict: Outcome,
    /// Of what no rule allows the stable name of the reason, as in records.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason: Option<&'static str>,
    /// Of what is allowed, by what.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub by: Option<By>,
    /// The rule that allows it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rule: Option<RuleRef>,
    /// The policies that select who asked.
    pub policies: Vec<String>,
    /// What else to know.
    pub notes: Vec<String>,
    /// Of what no rule allows, rules that nearly do.
    pub nearest: Vec<Near>,
}

/// What comes of it, as in records.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    /// A rule allows it.
    Allow,
    /// No rule does.
    Deny,
    /// No rule does, and it passes and is recorded.
    Audit,
}

impl Outcome {
    /// As records have it.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Allow => "allow",
            Self::Deny => "deny",
            Self::Audit => "audit",
        }
    }
}

/// What something is allowed by.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum By {
    /// The name in the hello; on other ports than 443 also the one that the endpoint was told the
    /// address for.
    Name,
    /// The request.
    Request,
    /// The name that the endpoint was told the address for.
    ToldName,
    /// The address, through the gateway.
    Address,
    /// The address, beside the gateway.
    Direct,
    /// It is the endpoint's own loopback, or the gateway.
    Own,
}

impl By {
    /// In words.
    pub const fn words(self) -> &'static str {
        match self {
            Self::Name => "by the host's name",
            Self::Request => "by the request",
            Self::ToldName => "by the name that the gateway's resolver has told the address for",
            Self::Address => "by the address, through the gateway",
            Self::Direct => "by the address, beside the gateway and unmonitored",
            Self::Own => "without a rule: its own loopback, or the gateway itself",
        }
    }
}

/// A rule, and where it is written.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct RuleRef {
    /// As records show it.
    pub name: String,
    /// Its place.
    pub site: Site,
}

/// A rule that nearly allows what was asked for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Near {
    /// Which.
    #[serde(flatten)]
    pub rule: RuleRef,
    /// What it lacks.
    pub why: String,
}

/// What some policies come to, with rules that are found again.
pub(super) struct Compiled {
    policy: CompiledPolicy,
    ids: Vec<RuleId>,
    direct: Vec<DirectEntry>,
    direct_ids: Vec<RuleId>,
}

/// What kernel and gateway say.
enum Said {
    Allow(By, Option<RuleId>),
    Deny(&'static str),
}

/// Explains what would come of it.
///
/// # Errors
/// No rule decides it at all: what does.
pub fn explain(
    sources: &Sources,
    subject: &Subject,
    question: &Question,
) -> Result<Explanation, String> {
    let places = sources.policies.selecting(&subject.identity);
    let compiled = Compiled::new(sources, &places);
    let said = compiled.ask(question, &subject.node)?;
    let mode = subject.mode.or_else(|| sources.policies.mode(&places));
    let mut explanation = Explanation {
        from: subject.identity.to_string(),
        to: question.to_string(),
        verdict: Outcome::Allow,
        reason: None,
        by: None,
        rule: None,
        policies: names(sources, &places),
        notes: Vec::new(),
        nearest: Vec::new(),
    };
    match said {
        Said::Allow(by, id) => {
            explanation.by = Some(by);
            explanation.rule = id.map(|id| rule_ref(sources, id));
            let notes = caution(by, question.port).into_iter();
            explanation.notes.extend(notes.map(str::to_owned));
        }
        Said::Deny(reason) => {
            explanation.verdict = match mode.unwrap_or_default() {
                Mode::Enforce => Outcome::Deny,
                Mode::Audit => Outcome::Audit,
            };
            explanation.reason = Some(reason);
            explanation.nearest = nearest::nearest(sources, &places, question, &subject.node);
            if places.is_empty() {
                explanation
                    .notes
                    .push(format!("no policy selects {}", subject.identity));
            }
        }
    }
    Ok(explanation)
}

fn names(sources: &Sources, places: &[usize]) -> Vec<String> {
    let policies = places.iter().filter_map(|place| sources.policy(*place));
    policies.map(|policy| policy.name()).collect()
}

fn rule_ref(sources: &Sources, id: RuleId) -> RuleRef {
    RuleRef {
        name: sources.rule_name(id),
        site: sources.rule_site(id),
    }
}

/// What a rule alone does not decide.
fn caution(by: By, port: u16) -> Vec<&'static str> {
    const PUBLIC: &str = "if the host's addresses are public, or permittedAnswers has them";
    const TOLD: &str = "what is not TLS: if the endpoint has looked the name up and dials what it was told, else it is address_not_answered";
    match by {
        By::Name if TLS_ONLY.contains(port) => vec![PUBLIC],
        By::Name | By::ToldName => vec![PUBLIC, TOLD],
        By::Request => vec![PUBLIC],
        By::Address | By::Direct | By::Own => Vec::new(),
    }
}

impl Compiled {
    /// Of the policies in these places.
    pub(super) fn new(sources: &Sources, places: &[usize]) -> Self {
        let (mut rules, mut ids): (Vec<Rule>, Vec<RuleId>) = (Vec::new(), Vec::new());
        let (mut direct, mut direct_ids) = (Vec::new(), Vec::new());
        for &policy in places {
            for (index, mut rule) in sources.policies.rules(&[policy]).into_iter().enumerate() {
                // Two policies may have one name.
                rule.name = ids.len().to_string();
                rules.push(rule);
                ids.push(RuleId {
                    policy,
                    list: List::Egress,
                    index,
                });
            }
            let granted = sources.policy(policy).map(|it| grants(policy, it));
            for grant in granted.into_iter().flatten() {
                let What::Direct(transport, network) = grant.what else {
                    continue;
                };
                direct.push(DirectEntry {
                    network,
                    transport,
                    ports: grant.ports,
                    rule: direct_ids.len().to_string().into(),
                });
                direct_ids.push(grant.rule);
            }
        }
        Self {
            policy: CompiledPolicy::new(&rules),
            ids,
            direct,
            direct_ids,
        }
    }

    /// Whether it is allowed.
    pub(super) fn allows(&self, question: &Question, node: &NodeView) -> bool {
        matches!(self.ask(question, node), Ok(Said::Allow(..)))
    }

    fn ask(&self, question: &Question, node: &NodeView) -> Result<Said, String> {
        let (verdict, entry) = match &question.to {
            Destination::Address(address) => {
                let (port, transport) = (question.port, question.transport);
                node.kernel(*address, port, transport, &self.direct)
            }
            Destination::Host(_) => node.kernel_of_host(question),
        };
        match verdict {
            Verdict::Allow => {
                let rule = entry.and_then(|entry| found(&self.direct_ids, &entry.rule));
                let by = if rule.is_some() { By::Direct } else { By::Own };
                Ok(Said::Allow(by, rule))
            }
            Verdict::Deny(reason) => Ok(Said::Deny(reason.name())),
            Verdict::Redirect(Service::Resolver) => Err(
                "port 53 is for no rule to decide: all DNS goes to the gateway's resolver, which answers the hosts that rules name; ask for the host and the port that it is wanted for"
                    .to_owned(),
            ),
            Verdict::Redirect(Service::Proxy) => Ok(self.ask_gateway(question)),
        }
    }

    fn ask_gateway(&self, question: &Question) -> Said {
        let port = question.port;
        let told = !TLS_ONLY.contains(port);
        match &question.to {
            Destination::Address(address) => match self.policy.decide_address(*address, port) {
                Decision::Allow { rule } => Said::Allow(By::Address, found(&self.ids, &rule)),
                Decision::Deny(_) if told && self.policy.has_hosts_on(port) => {
                    Said::Deny("address_not_answered")
                }
                Decision::Deny(reason) => Said::Deny(reason.as_str()),
            },
            Destination::Host(host) => {
                let request = question.http();
                let by_name = self.policy.decide_name(host, port);
                match (request.map(|it| self.policy.decide_http(&it)), by_name) {
                    (Some(HttpDecision::Allow { rule, .. }), _) => {
                        Said::Allow(By::Request, found(&self.ids, &rule))
                    }
                    (Some(HttpDecision::Deny(_)), Decision::Allow { rule }) if told => {
                        Said::Allow(By::ToldName, found(&self.ids, &rule))
                    }
                    (Some(HttpDecision::Deny(reason)), _) => Said::Deny(reason.as_str()),
                    (None, Decision::Allow { rule }) => {
                        Said::Allow(By::Name, found(&self.ids, &rule))
                    }
                    (None, Decision::Deny(reason)) => Said::Deny(reason.as_str()),
                }
            }
        }
    }
}

/// The rule that was compiled under this number.
fn found(ids: &[RuleId], name: &str) -> Option<RuleId> {
    ids.get(name.parse::<usize>().ok()?).copied()
}

#[cfg(test)]
#[path = "explain/tests.rs"]
mod tests;

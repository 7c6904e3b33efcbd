//! Whom a policy is about, so that two of them can be compared.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
};

use super::select::{Identity, Policy};

/// The identities that a selector selects.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Selection {
    namespaces: Namespaces,
    /// Empty is any.
    service_accounts: BTreeSet<String>,
    /// All of these.
    labels: BTreeMap<String, String>,
}

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Namespaces {
    Any,
    /// Only what has no namespace.
    Without,
    These(BTreeSet<String>),
}

impl Selection {
    /// Whom a policy selects.
    pub fn of(policy: &Policy) -> Self {
        let (namespaces, accounts, labels) = match policy {
            Policy::Namespaced(policy) => {
                let namespaces = match &policy.metadata.namespace {
                    Some(namespace) => Namespaces::These([namespace.clone()].into()),
                    None => Namespaces::Without,
                };
                let selector = &policy.spec.selector;
                (
                    namespaces,
                    &selector.service_accounts,
                    &selector.match_labels,
                )
            }
            Policy::Cluster(policy) => {
                let selector = &policy.spec.selector;
                let namespaces = match selector.namespaces.as_slice() {
                    [] => Namespaces::Any,
                    some => Namespaces::These(some.iter().cloned().collect()),
                };
                (
                    namespaces,
                    &selector.service_accounts,
                    &selector.match_labels,
                )
            }
        };
        Self {
            namespaces,
            service_accounts: accounts.iter().cloned().collect(),
            labels: labels.clone(),
        }
    }

    /// Whether it selects all that the other does.
    pub fn covers(&self, other: &Self) -> bool {
        let namespaces = match (&self.namespaces, &other.namespaces) {
            (Namespaces::Any, _) | (Namespaces::Without, Namespaces::Without) => true,
            (Namespaces::These(ours), Namespaces::These(theirs)) => theirs.is_subset(ours),
            (Namespaces::Without, Namespaces::Any | Namespaces::These(_))
            | (Namespaces::These(_), Namespaces::Any | Namespaces::Without) => false,
        };
        let accounts = self.service_accounts.is_empty()
            || !other.service_accounts.is_empty()
                && other.service_accounts.is_subset(&self.service_accounts);
        let label = |(key, value)| other.labels.get(key) == Some(value);
        namespaces && accounts && self.labels.iter().all(label)
    }

    /// The same by one namespace and one service account each.
    pub fn parts(&self) -> Vec<Self> {
        let namespaces: Vec<_> = match &self.namespaces {
            Namespaces::These(these) => {
                let one = |name: &String| Namespaces::These([name.clone()].into());
                these.iter().map(one).collect()
            }
            all @ (Namespaces::Any | Namespaces::Without) => vec![all.clone()],
        };
        let accounts: Vec<_> = match self.service_accounts.is_empty() {
            true => vec![BTreeSet::new()],
            false => {
                let accounts = self.service_accounts.iter();
                accounts.map(|it| [it.clone()].into()).collect()
            }
        };
        let part = |namespaces: &Namespaces, accounts: &BTreeSet<String>| Self {
            namespaces: namespaces.clone(),
            service_accounts: accounts.clone(),
            labels: self.labels.clone(),
        };
        let parts = namespaces
            .iter()
            .flat_map(|namespaces| accounts.iter().map(move |it| part(namespaces, it)));
        parts.collect()
    }
}

/// `shop/orders`, `shop/*`, `*/*`, `shop/* tier=back`; `-` stands for none.
impl fmt::Display for Selection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let joined = |names: &BTreeSet<String>| {
            let names: Vec<_> = names.iter().map(String::as_str).collect();
            names.join(",")
        };
        let namespaces = match &self.namespaces {
            Namespaces::Any => "*".to_owned(),
            Namespaces::Without => "-".to_owned(),
            Namespaces::These(names) => joined(names),
        };
        let accounts = match self.service_accounts.is_empty() {
            true => "*".to_owned(),
            false => joined(&self.service_accounts),
        };
        write!(f, "{namespaces}/{accounts}{}", Labels(&self.labels))
    }
}

/// `shop/orders`, `shop/orders tier=back`; `-` stands for none.
impl fmt::Display for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let or_none = |name: &'_ Option<String>| name.clone().unwrap_or_else(|| "-".to_owned());
        let (namespace, account) = (or_none(&self.namespace), or_none(&self.service_account));
        write!(f, "{namespace}/{account}{}", Labels(&self.labels))
    }
}

struct Labels<'a>(&'a BTreeMap<String, String>);

impl fmt::Display for Labels<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut labels = self.0.iter();
        labels.try_for_each(|(key, value)| write!(f, " {key}={value}"))
    }
}

/// An identity from `NAMESPACE/SERVICEACCOUNT`, either of which may be left out, without labels.
///
/// # Errors
/// What to write.
pub fn parse_identity(text: &str) -> Result<Identity, String> {
    let (namespace, account) = text.split_once('/').ok_or_else(|| {
        format!(
            "{text:?} is no identity; write NAMESPACE/SERVICEACCOUNT such as \"shop/orders\", or \"shop/\" without a service account"
        )
    })?;
    let some = |name: &str| match name {
        "" | "-" => None,
        name => Some(name.to_owned()),
    };
    Ok(Identity {
        namespace: some(namespace),
        service_account: some(account),
        labels: BTreeMap::new(),
    })
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::policy::load::load_str;

    fn namespaced(namespace: &str, selector: &str) -> Selection {
        let text = format!(
            "apiVersion: egress-agent.dev/v1alpha1\nkind: EgressPolicy\nmetadata: {{ name: a{namespace} }}\nspec: {{ selector: {{ {selector} }} }}\n"
        );
        Selection::of(&load_str(Path::new("p.yaml"), &text).unwrap()[0])
    }

    fn cluster(selector: &str) -> Selection {
        let text = format!(
            "apiVersion: egress-agent.dev/v1alpha1\nkind: ClusterEgressPolicy\nmetadata: {{ name: a }}\nspec: {{ selector: {{ {selector} }} }}\n"
        );
        Selection::of(&load_str(Path::new("p.yaml"), &text).unwrap()[0])
    }

    #[test]
    fn who_selects_all_that_another_does() {
        let shop = namespaced(", namespace: shop", "");
        let orders = namespaced(", namespace: shop", "serviceAccounts: [orders]");
        let back = namespaced(
            ", namespace: shop",
            "serviceAccounts: [orders], matchLabels: { tier: back }",
        );
        let both = cluster("namespaces: [shop, web], serviceAccounts: [orders, web]");
        let (all, without) = (cluster(""), namespaced("", ""));
        let order = [&all, &shop, &orders, &back];
        for (wide, a) in order.iter().enumerate() {
            for (narrow, b) in order.iter().enumerate() {
                assert_eq!(a.covers(b), wide <= narrow, "{a} {b}");
            }
        }
        assert!(both.covers(&orders) && !both.covers(&shop) && all.covers(&without));
        assert!(!shop.covers(&without) && !without.covers(&shop) && !without.covers(&all));
        let parts: Vec<_> = both.parts().iter().map(ToString::to_string).collect();
        assert_eq!(parts, ["shop/orders", "shop/web", "web/orders", "web/web"]);
        assert_eq!(back.to_string(), "shop/orders tier=back");
        assert_eq!(
            (all.to_string(), without.to_string()),
            ("*/*".into(), "-/*".into())
        );
    }

    #[test]
    fn identities() {
        for (text, shown) in [
            ("shop/orders", "shop/orders"),
            ("shop/", "shop/-"),
            ("/a", "-/a"),
        ] {
            assert_eq!(parse_identity(text).unwrap().to_string(), shown);
        }
        assert!(parse_identity("shop").unwrap_err().contains("NAMESPACE/"));
    }
}

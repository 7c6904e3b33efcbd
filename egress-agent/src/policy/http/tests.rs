use proptest::prelude::*;

use super::*;
use crate::policy::{
    compile::CompiledPolicy,
    rule::{Allow, Rule},
};

fn rule(hosts: &[&str]) -> HttpRule {
    HttpRule {
        hosts: hosts.iter().map(|host| host.parse().unwrap()).collect(),
        methods: Vec::new(),
        paths: Vec::new(),
        headers: Vec::new(),
        websocket: false,
        originate_tls: false,
        upstream_port: None,
    }
}

fn compiled(rules: Vec<HttpRule>) -> CompiledPolicy {
    let rules: Vec<_> = rules
        .into_iter()
        .enumerate()
        .map(|(number, http)| Rule {
            name: format!("r{number}"),
            allow: Allow::Http {
                http,
                ports: vec![PortRange::HTTP],
            },
        })
        .collect();
    CompiledPolicy::new(&rules)
}

fn request(line: &str) -> Request {
    let (method, rest) = line.split_once(' ').unwrap();
    let (host, path) = rest.split_at(rest.find('/').unwrap());
    Request {
        host: HostName::from_text(host).unwrap(),
        port: 80,
        method: method.to_owned(),
        path: Path::normalise(path.as_bytes()).unwrap(),
        fields: Vec::new(),
        websocket: false,
    }
}

fn says(policy: &CompiledPolicy, request: &Request) -> String {
    match policy.decide_http(request) {
        HttpDecision::Allow {
            rule,
            port,
            originate_tls,
        } => format!("{rule}:{port}{}", if originate_tls { " tls" } else { "" }),
        HttpDecision::Deny(reason) => reason.as_str().to_owned(),
    }
}

fn methods(list: &[&str]) -> Vec<Method> {
    list.iter().map(|method| method.parse().unwrap()).collect()
}

#[test]
fn the_nearest_rule_gives_the_reason() {
    let policy = compiled(vec![
        HttpRule {
            methods: methods(&["GET", "HEAD"]),
            paths: vec!["/v1/*".parse().unwrap()],
            ..rule(&["status.test", "*.hooks.test"])
        },
        HttpRule {
            methods: methods(&["POST"]),
            headers: vec![HeaderPattern {
                name: "X-Tenant".parse().unwrap(),
                value: Some("a".to_owned()),
            }],
            ..rule(&["status.test"])
        },
    ]);
    for (line, expected) in [
        ("GET status.test/v1/a", "r0:80"),
        ("HEAD x.hooks.test/v1/", "r0:80"),
        ("GET hooks.test/v1/a", "host_not_allowed"),
        ("GET other.test/v1/a", "host_not_allowed"),
        ("PUT status.test/v1/a", "method_not_allowed"),
        ("get status.test/v1/a", "method_not_allowed"),
        ("GET status.test/v2", "path_not_allowed"),
        ("GET status.test/v1/../v2", "path_not_allowed"),
        ("POST status.test/v2", "header_not_allowed"),
    ] {
        assert_eq!(says(&policy, &request(line)), expected, "{line}");
    }
    let mut other = request("GET status.test/v1/a");
    other.port = 8080;
    assert_eq!(says(&policy, &other), "port_not_allowed");
    other.port = 80;
    other.websocket = true;
    assert_eq!(says(&policy, &other), "websocket_not_allowed");
    assert!(policy.decide_look_up(&other.host).is_ok());
}

#[test]
fn every_field_of_the_name_must_have_the_value() {
    let tenant = |value: Option<&str>| {
        compiled(vec![HttpRule {
            headers: vec![HeaderPattern {
                name: "X-Tenant".parse().unwrap(),
                value: value.map(str::to_owned),
            }],
            ..rule(&["a.test"])
        }])
    };
    let with = |values: &[&str]| Request {
        fields: values
            .iter()
            .map(|value| ("x-tenant".to_owned(), value.as_bytes().to_vec()))
            .collect(),
        ..request("GET a.test/")
    };
    for (values, exact, any) in [
        (&[][..], false, false),
        (&["a"], true, true),
        (&["b"], false, true),
        (&["A"], false, true),
        (&["a", "a"], true, true),
        (&["a", "b"], false, true),
    ] {
        let allowed = |policy: &CompiledPolicy| says(policy, &with(values)) == "r0:80";
        assert_eq!(allowed(&tenant(Some("a"))), exact, "{values:?}");
        assert_eq!(allowed(&tenant(None)), any, "{values:?}");
    }
}

#[test]
fn origination_goes_first_and_elsewhere() {
    let tls = HttpRule {
        originate_tls: true,
        ..rule(&["*.b.test"])
    };
    let other = HttpRule {
        upstream_port: Some(8443),
        ..tls.clone()
    };
    let line = request("GET a.b.test/");
    let plain = rule(&["a.b.test"]);
    assert_eq!(says(&compiled(vec![plain.clone()]), &line), "r0:80");
    assert_eq!(says(&compiled(vec![plain, tls]), &line), "r1:443 tls");
    assert_eq!(says(&compiled(vec![other]), &line), "r0:8443 tls");
}

#[test]
fn rules_survive_json() {
    let http = HttpRule {
        headers: vec![HeaderPattern {
            name: "X-A".parse().unwrap(),
            value: None,
        }],
        ..rule(&["a.test"])
    };
    let json = serde_json::to_string(&http).unwrap();
    assert_eq!(serde_json::from_str::<HttpRule>(&json).unwrap(), http);
}

/// The obvious evaluator: whether any rule has it all.
fn naive(rules: &[HttpRule], request: &Request) -> bool {
    let listed = |all: &[String], one: &str| all.is_empty() || all.iter().any(|it| it == one);
    rules.iter().any(|rule| {
        let methods: Vec<_> = rule.methods.iter().map(|m| m.0.clone()).collect();
        rule.hosts.iter().any(|host| host.matches(&request.host))
            && listed(&methods, &request.method)
            && (rule.paths.is_empty() || rule.paths.iter().any(|p| p.matches(&request.path)))
            && (rule.websocket || !request.websocket)
    })
}

proptest! {
    #[test]
    fn agrees_with_the_obvious_evaluator(
        rules in prop::collection::vec((
            prop::sample::select(vec!["a.test", "*.a.test", "b.a.test"]),
            prop::sample::subsequence(vec!["GET", "POST"], 0..3),
            prop::sample::subsequence(vec!["/", "/v1/*", "/v1/*/a", "/v1"], 0..3),
            any::<bool>(),
        ), 0..5),
        host in prop::sample::select(vec!["a.test", "b.a.test", "c.b.a.test", "x.test"]),
        method in prop::sample::select(vec!["GET", "POST", "PUT"]),
        path in prop::sample::select(vec!["/", "/v1", "/v1/", "/v1/x/a", "/v1/x/../x"]),
        websocket in any::<bool>(),
    ) {
        let rules: Vec<_> = rules.into_iter().map(|(host, of, paths, websocket)| HttpRule {
            methods: methods(&of),
            paths: paths.iter().map(|path| path.parse().unwrap()).collect(),
            websocket,
            ..rule(&[host])
        }).collect();
        let request = Request { websocket, ..request(&format!("{method} {host}{path}")) };
        let allowed = says(&compiled(rules.clone()), &request).starts_with('r');
        prop_assert_eq!(allowed, naive(&rules, &request), "{:?} {:?}", rules, request);
    }
}

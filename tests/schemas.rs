//! What `--json` prints is as its schema says (`driftheap schema VERB`).
//!
//! The checker knows the words of JSON Schema that the schemas use; another word fails the test, so
//! that nothing is passed over.

use std::process::{Command, Stdio};

use serde_json::Value;

fn run(arguments: &[&str], directory: &std::path::Path) -> String {
    let output = Command::new(env!("CARGO_BIN_EXE_driftheap"))
        .args(arguments)
        .current_dir(directory)
        .stdin(Stdio::null())
        .output()
        .expect("driftheap starts");
    // 1: a real machine may lack what `compare` or `hunt` needs; the lines are as ever.
    assert!(matches!(output.status.code(), Some(0 | 1)), "{arguments:?}: {output:?}");
    String::from_utf8(output.stdout).expect("UTF-8")
}

fn schema(verb: &str) -> Value {
    let text = run(&["schema", verb], std::path::Path::new("."));
    serde_json::from_str(&text).expect("JSON")
}

fn is(value: &Value, name: &str) -> bool {
    match name {
        "object" => value.is_object(),
        "array" => value.is_array(),
        "string" => value.is_string(),
        "boolean" => value.is_boolean(),
        "null" => value.is_null(),
        // 128 bits wide numbers come as floats; what is counted has no fraction.
        "integer" => value.as_f64().is_some_and(|number| number.fract() == 0.0),
        "number" => value.is_number(),
        other => panic!("`{other}` is no type"),
    }
}

/// What is wrong with `value`, and where.
fn wrong(schema: &Value, value: &Value, at: &str) -> Option<String> {
    let schema = schema.as_object().expect("a schema is an object");
    for (word, says) in schema {
        let found = match word.as_str() {
            "$schema" | "title" | "description" => None,
            "type" => {
                let names = says.as_array().cloned().unwrap_or_else(|| vec![says.clone()]);
                let mut names = names.iter().map(|name| name.as_str().expect("a type"));
                (!names.any(|name| is(value, name))).then(|| format!("{at}: {value} is no {says}"))
            }
            "enum" => {
                let allowed = says.as_array().expect("a list").contains(value);
                (!allowed).then(|| format!("{at}: {value} is none of {says}"))
            }
            "const" => (says != value).then(|| format!("{at}: {value} is not {says}")),
            "required" => {
                let mut names =
                    says.as_array().expect("a list").iter().map(|n| n.as_str().expect("a name"));
                let object = value.as_object();
                names
                    .find(|name| object.is_some_and(|object| !object.contains_key(*name)))
                    .map(|name| format!("{at}: no `{name}`"))
            }
            "properties" => {
                let known = says.as_object().expect("an object");
                let of = value.as_object();
                known
                    .iter()
                    .find_map(|(name, inner)| wrong(inner, of?.get(name)?, &format!("{at}.{name}")))
            }
            "additionalProperties" => {
                let known = schema.get("properties").and_then(Value::as_object);
                let others = value.as_object().into_iter().flatten();
                others
                    .filter(|(name, _)| known.is_none_or(|known| !known.contains_key(*name)))
                    .find_map(|(name, other)| {
                        if *says == Value::Bool(false) {
                            return Some(format!("{at}: `{name}` is not known"));
                        }
                        wrong(says, other, &format!("{at}.{name}"))
                    })
            }
            "items" => value.as_array().and_then(|list| {
                list.iter()
                    .enumerate()
                    .find_map(|(index, item)| wrong(says, item, &format!("{at}[{index}]")))
            }),
            "anyOf" => {
                let all: Vec<Option<String>> = says
                    .as_array()
                    .expect("a list")
                    .iter()
                    .map(|inner| wrong(inner, value, at))
                    .collect();
                let none = all.iter().all(Option::is_some);
                none.then(|| all.into_iter().flatten().collect::<Vec<_>>().join("; or "))
            }
            other => panic!("`{other}` is a word that the checker does not know"),
        };
        if found.is_some() {
            return found;
        }
    }
    None
}

#[test]
fn every_line_is_as_its_schema_says() {
    let place = tempfile::tempdir().expect("a directory");
    let cases: &[(&str, &[&[&str]])] = &[
        (
            "check",
            &[
                &["check", "--json", "--replay", "1"],
                &["check", "--json", "--replay", "off", "--states", "10", "A5"],
            ],
        ),
        ("compare", &[&["compare", "--json"]]),
        ("doctor", &[&["doctor", "--json"]]),
        (
            "explain",
            &[
                &["explain", "--json", "A5"],
                &["explain", "--json", "revoke-steps"],
                &["explain", "--json", "A1", "--variant", "pfnmap"],
            ],
        ),
        ("hunt", &[&["hunt", "--json", "--iterations", "5", "A1"]]),
        ("list", &[&["list", "--json"]]),
        ("matrix", &[&["matrix", "--json", "A5"], &["matrix", "--json", "A1-A7"]]),
        ("new", &[&["new", "--json", "my-heap"]]),
        ("replay", &[&["replay", "--json", "A5"], &["replay", "--json", "B1"]]),
        ("rules", &[&["rules", "--json"]]),
        ("statement", &[&["statement", "--json"]]),
    ];
    let listed = run(&["schema"], place.path());
    assert_eq!(
        listed.lines().collect::<Vec<_>>(),
        cases.iter().map(|(verb, _)| *verb).collect::<Vec<_>>()
    );
    for (verb, commands) in cases {
        let schema = schema(verb);
        let mut lines = 0;
        for command in *commands {
            for line in run(command, place.path()).lines() {
                let value: Value = serde_json::from_str(line).expect("an object a line");
                assert_eq!(wrong(&schema, &value, verb), None, "{command:?}: {line}");
                lines += 1;
            }
        }
        assert!(lines > 0 || *verb == "hunt", "{verb}: nothing was printed");
    }
}

/// The checker finds what is wrong, and a schema is not satisfied by anything.
#[test]
fn the_checker_can_fail() {
    let schema = schema("list");
    let good = serde_json::json!({ "test": "x", "row": null, "question": "", "sources": ["a"],
        "variants": [{ "variant": "-", "expected": "Never" }] });
    assert_eq!(wrong(&schema, &good, "list"), None);
    let spoil = |pointer: &str, value: Value| {
        let mut bad = good.clone();
        *bad.pointer_mut(pointer).expect("a place") = value;
        wrong(&schema, &bad, "list").is_some()
    };
    assert!(spoil("/test", 1.into()) && spoil("/sources/0", Value::Null));
    assert!(spoil("/variants/0/expected", "Often".into()) && spoil("/variants/0", Value::Null));
    let mut more = good.clone();
    more["more"] = true.into();
    assert!(wrong(&schema, &more, "list").is_some());
    let mut less = good;
    less.as_object_mut().expect("an object").remove("row");
    assert!(wrong(&schema, &less, "list").is_some());
}

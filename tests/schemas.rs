//! What `--json` prints is as its schema says (`driftheap schema VERB`).
//!
//! The checker knows the words of JSON Schema that the schemas use; another word fails the test, so
//! that nothing is passed over.

mod device_kit;

use std::collections::BTreeSet;
use std::path::Path;
use std::process::{Command, Stdio};

use device_kit::{User, available, bounded, stage, text};

use serde_json::Value;

fn run(arguments: &[&str], directory: &Path) -> String {
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
    let text = run(&["schema", verb], Path::new("."));
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
        other => panic!("`{other}` is not a type"),
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
    let known: Vec<&str> = cases.iter().map(|(verb, _)| *verb).collect();
    // Those of a device are asked below.
    let of_devices = |verb: &&str| !["ctl", "run"].contains(verb);
    assert_eq!(listed.lines().filter(of_devices).collect::<Vec<_>>(), known);
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

/// Each line of a file as the schema of `verb` says; what they are, by the words of `kind`.
fn checked(verb: &str, file: &Path, kind: impl Fn(&Value) -> String) -> BTreeSet<String> {
    let schema = schema(verb);
    let lines = std::fs::read_to_string(file).expect("written");
    let mut kinds = BTreeSet::new();
    for line in lines.lines() {
        let value: Value = serde_json::from_str(line).expect("an object a line");
        assert_eq!(wrong(&schema, &value, verb), None, "{line}");
        kinds.insert(kind(&value));
    }
    kinds
}

/// What `ctl --json` says of a running device, and the file of `run --misuse-json`.
#[test]
fn every_line_of_a_device_is_as_its_schema_says() {
    let stage = stage();
    let has_cc = Command::new("cc").arg("--version").stdout(Stdio::null()).status().is_ok();
    if !has_cc || !available(stage.path()) {
        eprintln!("SKIP: no device here, or no C compiler");
        return;
    }
    let checkout = Path::new(env!("CARGO_MANIFEST_DIR"));
    for (name, source) in [
        ("player", "tools/examples/player.c"),
        ("private", "tests/clients/misuse/private.c"),
        ("bracket", "tests/clients/misuse/bracket.c"),
    ] {
        let mut command = Command::new("cc");
        command.args(["-g", "-DBUGGY", "-o"]).arg(stage.path().join(name));
        let output = bounded({
            command.arg(checkout.join(source));
            command
        });
        assert!(output.status.success(), "{}", text(&output));
    }
    let ask = "./player 600 & sleep 1; ask() { ./driftheap ctl \"$@\" --json --socket sock >> ctl.json; }; \
         ask list; ask info; ask stats; ask info 1; ask zap 1; ask move \
         \"$(./driftheap ctl list --socket sock | awk 'NR == 2 { print $1 }')\"; ask trace; sleep 1; kill $!; wait; true";
    let runs: [(&[&str], &[&str]); 3] = [
        (
            &["--live", "--device", "camera,writes=frame,notify=ignored", "--control", "sock"],
            &["sh", "-c", ask],
        ),
        (&[], &["./private"]),
        (&["--check-access", "exhaustive"], &["./bracket"]),
    ];
    let mut acts = BTreeSet::new();
    for (options, program) in runs {
        let options = [&["-q", "--misuse-json", "misuse.json"], options].concat();
        let told = text(&device_kit::run(stage.path(), User::Own, &options, program));
        let first = |of: &Value| of.as_object().and_then(|act| act.keys().next().cloned());
        let seen = checked("run", &stage.path().join("misuse.json"), |report| {
            first(&report["act"]).expect("an act")
        });
        assert!(!seen.is_empty(), "{program:?}: no report: {told}");
        acts.extend(seen);
    }
    for act in ["access", "address", "dma", "exit"] {
        assert!(acts.contains(act), "{act}: {acts:?}");
    }
    let answers = checked("ctl", &stage.path().join("ctl.json"), |answer| {
        let known = ["backing", "ioctls", "event", "outcome"];
        known.into_iter().find(|word| answer.get(word).is_some()).unwrap_or("?").to_owned()
    });
    let all = ["backing", "event", "ioctls", "outcome"].map(str::to_owned);
    assert_eq!(answers, BTreeSet::from(all));
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

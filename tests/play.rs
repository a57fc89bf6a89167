//! `driftheap play` by plain HTTP: who is answered, what is answered, and what is cut off.

#[path = "common/http.rs"]
mod http;

use std::io::{BufRead as _, BufReader, Write as _};
use std::net::TcpStream;
use std::time::Instant;

use http::{Server, connect, exchange, request};
use serde_json::{Value, json};

impl Server {
    fn raw(&self, request: &[u8]) -> (u16, String) {
        exchange(&self.host(), request)
    }

    /// As the page's script asks.
    fn post_as(&self, client: &str, path: &str, body: &Value) -> (u16, Value) {
        let headers = [
            ("Host", self.host()),
            ("Origin", format!("http://{}", self.host())),
            ("X-Driftheap-Token", self.token.clone()),
            ("X-Driftheap-Client", client.to_owned()),
        ];
        let headers: Vec<(&str, &str)> =
            headers.iter().map(|(name, value)| (*name, value.as_str())).collect();
        let (status, text) =
            self.raw(request("POST", path, &headers, &body.to_string()).as_bytes());
        let (_, body) = text.split_once("\r\n\r\n").expect("a body");
        (status, serde_json::from_str(body).unwrap_or_else(|_| Value::String(body.to_owned())))
    }

    fn post(&self, path: &str, body: &Value) -> (u16, Value) {
        self.post_as("a test", path, body)
    }

    fn answer(&self, text: &str) -> Value {
        let (status, told) = self.post("/answer", &json!({ "text": text }));
        assert_eq!(status, 200, "{told}");
        told
    }

    fn lesson(&self, name: &str) -> String {
        let (status, told) = self.post("/lesson", &json!({ "name": name }));
        assert_eq!(status, 200, "{told}");
        told["text"].as_str().expect("a text").to_owned()
    }

    /// Begins a question to real memory, and reads until `word` has come.
    fn stream(&self, client: &str, path: &str, text: &str, word: &str) -> BufReader<TcpStream> {
        let body = json!({ "text": text, "variant": "" }).to_string();
        let host = self.host();
        let headers = [
            ("Host", host.as_str()),
            ("X-Driftheap-Token", &self.token),
            ("X-Driftheap-Client", client),
        ];
        let mut stream = connect(&self.host());
        stream.write_all(request("POST", path, &headers, &body).as_bytes()).expect("asked");
        let mut reader = BufReader::new(stream);
        wait(&mut reader, word);
        reader
    }
}

/// Reads lines until one has `word`; that one.
fn wait(reader: &mut BufReader<TcpStream>, word: &str) -> String {
    wait_any(reader, &[word])
}

/// Reads lines until one has one of `words`; that one.
fn wait_any(reader: &mut BufReader<TcpStream>, words: &[&str]) -> String {
    let mut all = String::new();
    loop {
        let mut line = String::new();
        let count = reader.read_line(&mut line).expect("a line");
        assert!(count > 0, "none of {words:?} came: {all}");
        if words.iter().any(|word| line.contains(word)) {
            return line;
        }
        all.push_str(&line);
    }
}

fn observed(told: &Value) -> Vec<(&str, &str)> {
    told["verdicts"]
        .as_array()
        .expect("verdicts")
        .iter()
        .map(|one| {
            (one["variant"].as_str().expect("a name"), one["observed"].as_str().expect("it"))
        })
        .collect()
}

#[test]
fn only_who_has_the_token_and_the_right_names_is_answered() {
    let server = Server::start(&[]);
    let (host, token) = (server.host(), server.token.clone());
    let path = format!("/?token={token}");
    let get = |path: &str, headers: &[(&str, &str)]| {
        server.raw(request("GET", path, headers, "").as_bytes())
    };
    let (status, page) = get(&path, &[("Host", &host)]);
    assert_eq!(status, 200, "{page}");
    let head = page.split("\r\n\r\n").next().expect("headers").to_lowercase();
    for header in [
        "content-security-policy: default-src 'none'",
        "cache-control: no-store",
        "referrer-policy: no-referrer",
        "x-content-type-options: nosniff",
    ] {
        assert!(head.contains(header), "{header}: {head}");
    }
    for outside in [" src=", "=\"http", "@import", "url("] {
        let own = page.replace("http://www.w3.org/2000/svg", "");
        assert!(!own.contains(outside), "the page fetches something: {outside}");
    }
    let local = format!("localhost:{}", server.port);
    assert_eq!(get(&path, &[("Host", &local)]).0, 200);
    let wrong = token.replace(|c: char| c.is_ascii_digit(), "f");
    let refused = [
        (path.as_str(), vec![("Host", "evil.example")]),
        (&path, vec![("Host", "127.0.0.1")]),
        (&path, vec![("Host", host.as_str()), ("Host", "evil.example")]),
        (&path, vec![("Host", &host), ("Origin", "http://evil.example")]),
        (&path, vec![("Host", &host), ("Origin", "null")]),
        ("/", vec![("Host", &host)]),
        ("/?token=", vec![("Host", &host)]),
        ("/?token=00", vec![("Host", &host)]),
    ];
    for (path, headers) in refused {
        let (status, text) = get(path, &headers);
        assert_eq!(status, 403, "{path} {headers:?}: {text}");
        assert!(text.contains("\"error\":"), "it says why: {text}");
        assert!(!text.contains("<textarea"), "{text}");
    }
    assert_eq!(get(&format!("/?token={wrong}x"), &[("Host", &host)]).0, 403);
    for path in ["/answer", "/lesson", "/rule", "/step", "/replay", "/hunt", "/cancel"] {
        for headers in [
            vec![("Host", host.as_str())],
            vec![("Host", &host), ("X-Driftheap-Token", &wrong[1..])],
            vec![("Host", "evil.example"), ("X-Driftheap-Token", &token)],
            vec![
                ("Host", &host),
                ("X-Driftheap-Token", &token),
                ("Origin", "https://evil.example"),
            ],
        ] {
            let request = request("POST", path, &headers, "{}");
            assert_eq!(server.raw(request.as_bytes()).0, 403, "{path} {headers:?}");
        }
        // A token in the address of a POST is none.
        let request = request("POST", &format!("{path}?token={token}"), &[("Host", &host)], "{}");
        assert_eq!(server.raw(request.as_bytes()).0, 403, "{path}");
    }
}

#[test]
fn no_file_of_the_host_can_be_read() {
    let server = Server::start(&[]);
    let host = server.host();
    for path in [
        "/etc/passwd",
        "/../../etc/passwd",
        "/%2e%2e/%2e%2e/etc/passwd",
        "//etc/passwd",
        "/Cargo.toml",
        "/src/main.rs",
    ] {
        let path = format!("{path}?token={}", server.token);
        let (status, text) = server.raw(request("GET", &path, &[("Host", &host)], "").as_bytes());
        assert_eq!(status, 404, "{path}: {text}");
    }
    for name in ["/etc/passwd", "../Cargo.toml", "Cargo.toml", "A1-A7", "."] {
        let (status, told) = server.post("/lesson", &json!({ "name": name }));
        assert_eq!(status, 404, "{name}: {told}");
    }
}

/// A question of more states than a page holds.
const CROWD: &str = include_str!("../tools/bench/crowd.litmus");

/// Beyond the states that a page holds, each is told when somebody goes there; what can be done in it
/// is what the model has.
#[test]
fn a_larger_question_is_stepped_through_by_asking() {
    use driftheap::litmus::rules::ModelRules;
    let test = driftheap::litmus::parse("crowd.litmus", CROWD, &ModelRules).expect("a test");
    let variant = &test.variants[0];
    let scenario =
        driftheap::question::scenario::Scenario::new(variant, CROWD).expect("a scenario");
    let server = Server::start(&[]);
    let told = server.answer(CROWD);
    let html = told["html"].as_str().expect("a page");
    assert!(html.contains("\"complete\":false"), "it has more states than a page holds");
    let number = |value: &Value| usize::try_from(value.as_i64().expect("one")).expect("small");
    // Always the last one who can go on, and always the first.
    for last in [true, false] {
        let mut schedule: Vec<u8> = Vec::new();
        let ended = loop {
            assert!(schedule.len() < 100, "it comes to an end: {schedule:?}");
            let ask = json!({ "text": CROWD, "variant": variant.name, "schedule": schedule });
            let (status, told) = server.post("/step", &ask);
            assert_eq!(status, 200, "{told}");
            let nodes = told["nodes"].as_array().expect("nodes");
            assert_eq!(nodes.len(), schedule.len() + 1, "{schedule:?}");
            let here = nodes[schedule.len()].as_array().expect("a node");
            let steps = here[1..].chunks(2).map(|step| number(&told["steps"][number(&step[0])][0]));
            let actors: Vec<u8> = steps.map(|actor| u8::try_from(actor).expect("small")).collect();
            let replay = scenario.replay(&schedule).expect("a schedule");
            let state = replay.events.last().map_or(&replay.before, |event| &event.after);
            let can = |actor: &u8| scenario.next(state, usize::from(*actor)).is_some();
            assert!(actors.iter().all(can), "{schedule:?}: {actors:?}");
            let next = if last { actors.last() } else { actors.first() };
            match next {
                Some(next) => schedule.push(*next),
                None => break told["ends"][schedule.len().to_string()].clone(),
            }
        };
        assert!(ended[1].is_boolean(), "the end is told: {ended}");
    }
    let ask = json!({ "text": CROWD, "variant": "none", "schedule": [0] });
    assert_eq!(server.post("/step", &ask).0, 400);
    let ask = json!({ "text": CROWD, "variant": variant.name, "schedule": vec![0; 5000] });
    assert_eq!(server.post("/step", &ask).0, 400);
}

#[test]
fn what_is_too_big_or_not_understood_is_refused() {
    let server = Server::start(&[]);
    let long = "#".repeat((64 << 10) + 1);
    let (status, told) = server.post("/answer", &json!({ "text": long }));
    assert_eq!(status, 413, "{told}");
    assert!(told["error"].as_str().is_some_and(|why| why.contains("64 KiB")), "{told}");
    let (status, told) = server.post("/answer", &json!({ "text": "x".repeat(1 << 20) }));
    assert_eq!(status, 413, "{told}");
    for body in [json!([]), json!({}), json!({ "text": 1 }), json!("text")] {
        assert_eq!(server.post("/answer", &body).0, 400, "{body}");
    }
    for flip in [
        json!({ "text": "", "kind": "exporter", "name": "x", "rule": "mmap", "value": "pfnmap" }),
        json!({ "text": "DMABUF x\nexporter x {}\n", "kind": "exporter", "name": "x", "rule": "mmap", "value": "no" }),
        json!({ "text": "DMABUF x\nexporter x {}\n", "kind": "exporter", "name": "x", "rule": "no", "value": "no" }),
        json!({ "text": "DMABUF x\nexporter x {}\n", "kind": "no", "name": "x", "rule": "mmap", "value": "pfnmap" }),
    ] {
        assert_eq!(server.post("/rule", &flip).0, 400, "{flip}");
    }
    let told = server.answer("");
    assert!(!told["mistakes"].as_array().expect("mistakes").is_empty());
}

/// Every lesson is answered as `driftheap check` answers it; the time of an edit is printed.
#[test]
fn every_lesson_is_answered_and_an_edit_is_quick() {
    let server = Server::start(&[]);
    let mut times: Vec<(u64, &str)> = Vec::new();
    for bundled in driftheap::suite::TESTS {
        let text = server.lesson(bundled.name);
        assert_eq!(text, bundled.text);
        // An edit that changes no answer.
        let told = server.answer(&format!("{text}\n# edited\n"));
        assert_eq!(told["mistakes"], json!([]), "{}", bundled.name);
        let html = told["html"].as_str().expect("a part of a page");
        assert!(
            html.contains("class=\"player\"") && !html.contains("class=\"bad\""),
            "{}",
            bundled.name
        );
        assert!(
            observed(&told).iter().all(|(_, observed)| *observed != "unknown"),
            "{}",
            bundled.name
        );
        times.push((told["millis"].as_u64().expect("a time"), bundled.name));
    }
    times.sort_unstable();
    let (slowest, name) = times[times.len() - 1];
    let middle = times[times.len() / 2].0;
    eprintln!("an edit is answered in {middle} ms (median), {slowest} ms at most ({name})");
}

#[test]
fn mistakes_have_their_place_and_a_caret() {
    let server = Server::start(&[]);
    let text = server.lesson("ttm-direct-io");
    let wrong = text.replacen("munmap v", "munmapp v", 1);
    assert_ne!(text, wrong);
    let told = server.answer(&wrong);
    let mistakes = told["mistakes"].as_array().expect("mistakes");
    assert!(!mistakes.is_empty() && told["html"] == "");
    let line = wrong.lines().position(|line| line.contains("munmapp")).expect("the line") + 1;
    assert_eq!(mistakes[0]["line"], line);
    let shown = mistakes[0]["shown"].as_str().expect("text");
    assert!(shown.contains("munmapp") && shown.contains("^^^^^^^"), "{shown}");
    assert!(!shown.contains('\u{1b}'));
}

#[test]
fn a_flipped_rule_changes_the_text_and_the_verdict() {
    let server = Server::start(&[]);
    let text = server.lesson("insert-page-and-move");
    let told = server.answer(&text);
    let before = observed(&told);
    assert!(before.contains(&("mixedmap-insert-page", "Sometimes")), "{before:?}");
    let blocks = told["blocks"].as_array().expect("blocks");
    let heap = blocks.iter().find(|block| block["kind"] == "exporter").expect("an exporter");
    assert!(
        heap["rules"].as_array().expect("rules").iter().any(|rule| rule[0] == "mmap"),
        "{heap}"
    );
    let flip = |text: &str, kind: &str, name: &Value, rule: &str, value: &str| {
        let flip =
            json!({ "text": text, "kind": kind, "name": name, "rule": rule, "value": value });
        let (status, told) = server.post("/rule", &flip);
        assert_eq!(status, 200, "{told}");
        told["text"].as_str().expect("a text").to_owned()
    };
    let bad = flip(&text, "exporter", &heap["name"], "mmap", "mixedmap-insert-page");
    assert_ne!(bad, text);
    // What the file expects of variants that are gone goes with them.
    assert!(!bad.contains("Result:"), "{bad}");
    let told = server.answer(&bad);
    assert_eq!(told["mistakes"], json!([]), "{bad}");
    assert_eq!(observed(&told), [("-", "Sometimes")]);
    let good = flip(&bad, "exporter", &heap["name"], "mmap", "pfnmap");
    assert_eq!(observed(&server.answer(&good)), [("-", "Never")]);
    let host = flip(&good, "host", &json!(""), "pte-special", "no");
    assert!(host.contains("host {") && host.contains("pte-special = no"), "{host}");
}

#[test]
fn a_runaway_question_is_cut_off_and_says_so() {
    let server = Server::start(&[]);
    let told = server.answer(&runaway());
    let verdicts = told["verdicts"].as_array().expect("verdicts");
    let stopped = verdicts[0]["stopped"].as_str().expect("it was cut off");
    assert!(stopped.contains("limit of 200000 states") || stopped.contains("seconds"), "{stopped}");
}

/// A question with more states than can be looked at: no two processes are interchangeable, and it asks
/// what every page holds.
fn runaway() -> String {
    let mut text =
        String::from("DMABUF runaway\nexporter heap {}\nbuffer A { exporter = heap; pages = 8 }\n");
    for process in 0..5 {
        text.push_str(&format!("P{process} application {{\n    mmap v = A shared rw\n"));
        for page in 0..8 {
            text.push_str(&format!("    store v[{}] = {}\n", (page + process) % 8, process + 1));
        }
        text.push_str("}\n");
    }
    let asked: Vec<String> = (0..8).map(|page| format!("A[{page}] = 1")).collect();
    text + &format!("exists ({})\n", asked.join(" /\\ "))
}

/// A race goes on until it is cancelled: by its client, or by its client's next question, or by
/// nobody being there any more.
#[test]
fn a_race_can_be_cancelled() {
    let server = Server::start(&[]);
    let text = server.lesson("insert-page-and-move");
    let mut race = server.stream("one", "/hunt", &text, "event: ");
    if wait_any(&mut race, &[" runs: ", "event: failed"]).contains("failed") {
        let why = wait(&mut race, "data: ");
        eprintln!("SKIP: no race can be run here: {why}");
        return;
    }
    let (status, told) = server.post_as("another", "/cancel", &json!({}));
    assert_eq!((status, &told["cancelled"]), (200, &json!(false)), "nobody else's");
    let begin = Instant::now();
    let (status, told) = server.post_as("one", "/cancel", &json!({}));
    assert_eq!((status, &told["cancelled"]), (200, &json!(true)));
    wait(&mut race, "event: done");
    let last = wait(&mut race, "data: ");
    assert!(last.contains("Cancelled; until then"), "{last}");
    eprintln!("a race ended {} ms after it was cancelled", begin.elapsed().as_millis());
    let (status, told) = server.post_as("one", "/cancel", &json!({}));
    assert_eq!((status, &told["cancelled"]), (200, &json!(false)), "it has ended");
}

#[test]
fn replay_tells_progress_and_agrees() {
    let server = Server::start(&[]);
    let text = server.lesson("move-copy-zap-order");
    let mut replay = server.stream("one", "/replay", &text, "event: progress");
    let end = wait(&mut replay, "event: done");
    assert!(end.contains("done"));
    let told = wait(&mut replay, "data: ");
    assert!(told.contains("schedules agreed") || told.contains("SKIP"), "{told}");
    assert!(!told.contains("DISAGREEMENT"), "{told}");
}

#[test]
fn it_ends_when_it_is_told() {
    let mut server = Server::start(&["A5"]);
    let path = format!("/?token={}", server.token);
    let host = server.host();
    let (_, page) = server.raw(request("GET", &path, &[("Host", &host)], "").as_bytes());
    assert!(page.contains("DMABUF ttm-direct-io"), "the question of the command line");
    let pid = rustix::process::Pid::from_child(&server.child);
    rustix::process::kill_process(pid, rustix::process::Signal::TERM).expect("told");
    assert_eq!(server.child.wait().expect("ended").code(), Some(0));
}

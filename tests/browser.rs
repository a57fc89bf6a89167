//! The pages in a browser: `tools/check.d/30-pages` runs this where there is Chromium with its driver.
//!
//! Spoken is WebDriver (a W3C recommendation), to a driver that is started here. A page of `report` is
//! asked by `tools/pages/probe.js`, every page by `tools/pages/accessible.js`, and by axe-core where
//! `DRIFTHEAP_AXE` names its script.

#[path = "common/http.rs"]
mod http;

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use http::{Server, address, exchange, request};
use serde_json::{Value, json};

const PROBE: &str = include_str!("../tools/pages/probe.js");
const ACCESSIBLE: &str = include_str!("../tools/pages/accessible.js");

/// Runs every rule of axe-core on the page; a text a violation.
const ASK_AXE: &str = "
    const done = arguments[0];
    axe.run(document, { resultTypes: ['violations'] }).then((told) => done(told.violations.flatMap((one) =>
        one.nodes.map((node) => `axe ${one.id} (${one.impact}): ${one.help}: ${node.target}: ${node.html.slice(0, 200)}`))),
        (error) => done([`axe: ${error}`]));
";

/// How long a page may take to show what it shall.
const PATIENCE: Duration = Duration::from_secs(60);

/// A browser, ended when this is dropped.
struct Browser {
    driver: Child,
    host: String,
    session: String,
    /// The script of axe-core.
    axe: Option<String>,
    _profile: tempfile::TempDir,
}

impl Browser {
    fn start() -> Self {
        let mut driver = Command::new("chromedriver")
            .arg("--port=0")
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .expect("chromedriver starts");
        let mut lines = BufReader::new(driver.stdout.take().expect("its output")).lines();
        let port = loop {
            let line = lines.next().expect("a port").expect("a line");
            if let Some((_, port)) = line.split_once("started successfully on port ") {
                break port.trim_end_matches('.').to_owned();
            }
        };
        let profile = tempfile::tempdir().expect("a directory");
        let directory = format!("--user-data-dir={}", profile.path().display());
        let arguments = [
            "--headless",
            "--no-sandbox",
            "--disable-gpu",
            "--disable-background-networking",
            "--disable-component-update",
            "--disable-sync",
            "--no-first-run",
            &directory,
        ];
        let options = json!({ "args": arguments });
        let wanted = json!({ "capabilities": { "alwaysMatch": {
            "goog:chromeOptions": options, "goog:loggingPrefs": { "browser": "ALL" },
        } } });
        let host = format!("127.0.0.1:{port}");
        let axe = std::env::var_os("DRIFTHEAP_AXE")
            .map(|path| std::fs::read_to_string(path).expect("the script of axe-core"));
        let mut browser = Self { driver, host, session: String::new(), axe, _profile: profile };
        let told = browser.post("/session", &wanted);
        let session = told["sessionId"].as_str().unwrap_or_else(|| panic!("no session: {told}"));
        browser.session = format!("/session/{session}");
        browser
    }

    fn post(&self, path: &str, body: &Value) -> Value {
        let headers = [("Host", self.host.as_str()), ("Content-Type", "application/json")];
        let (status, text) =
            exchange(&self.host, request("POST", path, &headers, &body.to_string()).as_bytes());
        let (_, body) = text.split_once("\r\n\r\n").expect("a body");
        let value: Value = serde_json::from_str(body).expect("JSON");
        assert_eq!(status, 200, "{path}: {value}");
        value["value"].clone()
    }

    fn command(&self, command: &str, body: &Value) -> Value {
        self.post(&format!("{}/{command}", self.session), body)
    }

    fn width(&self, width: u32) {
        let size =
            json!({ "width": width, "height": 900, "deviceScaleFactor": 1, "mobile": false });
        let order = json!({ "cmd": "Emulation.setDeviceMetricsOverride", "params": size });
        self.command("goog/cdp/execute", &order);
    }

    fn dark(&self, dark: bool) {
        let value = if dark { "dark" } else { "light" };
        let features = json!([{ "name": "prefers-color-scheme", "value": value }]);
        let order =
            json!({ "cmd": "Emulation.setEmulatedMedia", "params": { "features": features } });
        self.command("goog/cdp/execute", &order);
    }

    fn open(&self, address: &str) {
        self.command("url", &json!({ "url": address }));
    }

    fn run(&self, script: &str) -> Value {
        self.command("execute/sync", &json!({ "script": script, "args": [] }))
    }

    /// Until `condition` holds in the page.
    fn wait(&self, condition: &str) {
        let begin = Instant::now();
        while self.run(&format!("return Boolean({condition})")) != json!(true) {
            let body = || self.run("return document.body.innerText.slice(0, 2000)");
            assert!(begin.elapsed() < PATIENCE, "not within {PATIENCE:?}: {condition}: {}", body());
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// Errors that the page made since it was asked before.
    fn errors(&self) -> Vec<String> {
        let log = self.command("se/log", &json!({ "type": "browser" }));
        let lines = log.as_array().expect("a log").iter();
        lines.map(|line| line["message"].to_string()).collect()
    }

    /// What keeps somebody from using the page as it is now.
    fn barriers(&self, what: &str) -> Vec<String> {
        let mut found = Vec::new();
        for dark in [false, true] {
            self.dark(dark);
            let wrong = self.run(ACCESSIBLE);
            let wrong = wrong.as_array().unwrap_or_else(|| panic!("{what}: {wrong}"));
            found.extend(wrong.iter().map(|one| format!("{what}, dark {dark}: {one}")));
            found.extend(self.violations().iter().map(|one| format!("{what}, dark {dark}: {one}")));
        }
        found
    }

    /// What axe-core finds in the page as it is now.
    fn violations(&self) -> Vec<Value> {
        let Some(axe) = &self.axe else { return Vec::new() };
        if self.run("return typeof axe === 'undefined'") == json!(true) {
            self.run(axe);
        }
        let told = self.command("execute/async", &json!({ "script": ASK_AXE, "args": [] }));
        told.as_array().unwrap_or_else(|| panic!("axe: {told}")).clone()
    }
}

impl Drop for Browser {
    fn drop(&mut self) {
        // A driver that is killed leaves its browser behind; also while the test panics.
        let host = [("Host", self.host.as_str())];
        if let Ok(mut driver) = std::net::TcpStream::connect(&self.host) {
            let _limit = driver.set_read_timeout(Some(Duration::from_secs(10)));
            let _asked = driver.write_all(request("DELETE", &self.session, &host, "").as_bytes());
            let _answered = driver.read(&mut [0; 1024]);
        }
        let _gone = self.driver.kill();
        let _status = self.driver.wait();
    }
}

fn report(directory: &Path) {
    let output = Command::new(env!("CARGO_BIN_EXE_driftheap"))
        .args(["report", "-q", "--replay", "off", "-o"])
        .arg(directory)
        .output()
        .expect("driftheap starts");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

/// Every step of every variant of every bundled test, by its button.
#[test]
#[ignore = "needs chromium and chromium-driver; tools/check.d/30-pages runs it"]
fn every_page_of_the_report_is_stepped_through() {
    let place = tempfile::tempdir().expect("a directory");
    report(place.path());
    let browser = Browser::start();
    let (mut steps, mut hazards, mut pages) = (0, 0, 0);
    let mut wrong = Vec::new();
    for width in [1280, 390] {
        browser.width(width);
        for test in driftheap::suite::TESTS {
            let what = format!("{} at {width}", test.name);
            browser.open(&format!("file://{}/{}.html", place.path().display(), test.name));
            browser.wait("document.querySelector('.player:not([hidden])')");
            let told = browser.run(PROBE);
            assert_eq!(told["wrong"], json!([]), "{what}");
            steps += told["steps"].as_u64().expect("a number");
            hazards += told["hazards"].as_u64().expect("a number");
            wrong.extend(browser.barriers(&what));
            assert_eq!(browser.errors(), Vec::<String>::new(), "{what}");
            pages += 1;
        }
        browser.open(&format!("file://{}/index.html", place.path().display()));
        wrong.extend(browser.barriers(&format!("the list at {width}")));
        assert_eq!(browser.errors(), Vec::<String>::new(), "the list");
    }
    eprintln!(
        "{pages} pages opened, {steps} steps taken by their buttons, {hazards} of them hazards"
    );
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    assert!(steps > 2000 && hazards > 100);
}

/// How long `play` may take to answer an edit of a bundled test.
const EDIT_MAX: Duration = Duration::from_millis(200);

/// Every lesson, with a line more each time; what counts is the machine's best of some.
#[test]
#[ignore = "times mean something on a machine that does nothing else; tools/check.d/30-pages runs it"]
fn an_edit_of_every_lesson_is_answered_in_time() {
    let server = Server::start(&[]);
    let host = server.host();
    let headers = [("Host", host.as_str()), ("X-Driftheap-Token", server.token.as_str())];
    let answered = |text: &str| {
        let body = json!({ "text": text }).to_string();
        let asked = Instant::now();
        let (status, _) = exchange(&host, request("POST", "/answer", &headers, &body).as_bytes());
        assert_eq!(status, 200);
        asked.elapsed()
    };
    let times = driftheap::suite::TESTS.iter().map(|test| {
        let lines = (0..5).map(|lines| answered(&format!("{}{}", test.text, "\n".repeat(lines))));
        (lines.min().expect("some"), test.name)
    });
    let (slowest, name) = times.max().expect("lessons");
    eprintln!(
        "play: the slowest edit of {} tests took {slowest:?} ({name})",
        driftheap::suite::TESTS.len()
    );
    assert!(slowest < EDIT_MAX, "{name}: {slowest:?}");
}

/// A question of more states than a page holds is stepped to its end by buttons, beside every schedule.
#[test]
#[ignore = "needs chromium and chromium-driver; tools/check.d/30-pages runs it"]
fn play_goes_on_where_the_page_ends() {
    let crowd = Path::new(env!("CARGO_MANIFEST_DIR")).join("tools/bench/crowd.litmus");
    let server = Server::start(&[crowd.to_str().expect("a path")]);
    let browser = Browser::start();
    browser.open(&format!("http://{}/?token={}", server.host(), server.token));
    browser.wait("document.querySelector('.answer .player:not([hidden])')");
    browser.wait("document.querySelector('.next').textContent.includes('asked for as you go')");
    let mut steps = 0;
    let end = "document.querySelector('.next').textContent.includes('Nobody can go on')";
    while browser.run(&format!("return {end}")) == json!(false) {
        steps += 1;
        assert!(steps < 100, "it comes to an end");
        browser.run("[...document.querySelectorAll('.next button')].pop().click()");
        browser.wait(&format!(
            "document.querySelector('.said').textContent.startsWith('Step {steps} of')"
        ));
    }
    let said = browser.run("return document.querySelector('.said').textContent");
    assert!(said.as_str().is_some_and(|text| text.contains("The end:")), "{said}");
    // Back, and another way from there.
    browser.run("document.querySelector('.back').click(); document.querySelector('.back').click()");
    browser.run("document.querySelector('.hazard').click()");
    browser.run("document.querySelector('.way').dispatchEvent(new Event('change'))");
    browser.wait("document.querySelector('.said').textContent.startsWith('Step 0 of')");
    assert_eq!(browser.errors(), Vec::<String>::new());
    assert!(browser.barriers("a larger question").is_empty());
}

/// What keeps somebody from using a page is found.
#[test]
#[ignore = "needs chromium and chromium-driver; tools/check.d/30-pages runs it"]
fn a_barrier_is_found() {
    let place = tempfile::tempdir().expect("a directory");
    let page = place.path().join("page.html");
    let text =
        "<!doctype html><html lang=en><title>A page</title><main><h1>A page</h1><button></button>";
    std::fs::write(&page, text).expect("written");
    let browser = Browser::start();
    browser.open(&format!("file://{}", page.display()));
    let found = browser.barriers("a button without a name").join("\n");
    assert!(found.contains("no name: button"), "{found}");
    assert!(browser.axe.is_none() || found.contains("axe button-name"), "{found}");
}

/// The cells and arrows in the document are those that were told last.
const LIVE_PROBE: &str = "
    const { shown } = globalThis.driftheap, wrong = [];
    const all = (selector) => [...document.querySelectorAll(`.drawing ${selector}`)];
    const same = (what, one, other) => { if (one.join() !== other.join()) wrong.push(`${what}: ${one} and ${other}`); };
    same('cells', all('.cell').map((cell) => cell.dataset.owner), shown.cells.map((cell) => cell.owner));
    same('arrows', all('.arrow').map((one) => `${one.dataset.slot} ${one.dataset.to} ${one.dataset.stale}`),
        shown.arrows.map((one) => `${shown.slots[one.slot][2]} ${shown.places[one.to]} ${one.stale}`));
    same('red', [all('.arrow.red').length], [shown.hazards.length]);
    return wrong;
";

/// A device that runs is looked at, held still, and a buffer of it is moved by a button.
#[test]
#[ignore = "needs chromium and chromium-driver; tools/check.d/30-pages runs it"]
fn a_running_device_is_looked_at() {
    let place = tempfile::tempdir().expect("a directory");
    let player = place.path().join("player");
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("tools/examples/player.c");
    let built = Command::new("cc").arg("-o").arg(&player).arg(source).status();
    assert!(built.expect("a C compiler").success());
    let mut child = Command::new(env!("CARGO_BIN_EXE_driftheap"))
        .args(["run", "-q", "--web-control", "--live", "--misuse"])
        .args(["--device", "camera,writes=frame,notify=ignored", "--"])
        .arg(&player)
        .arg("600")
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .expect("driftheap starts");
    let mut words = BufReader::new(child.stderr.take().expect("its words"));
    let (port, token) = address(&mut words);
    let browser = Browser::start();
    let mut wrong = Vec::new();
    browser.width(1280);
    browser.open(&format!("http://127.0.0.1:{port}/?token={token}"));
    let arrows = "document.querySelectorAll('.drawing .arrow').length";
    browser.wait(&format!("{arrows} >= 3"));
    assert_eq!(browser.run(LIVE_PROBE), json!([]));
    browser.run("document.querySelector('[data-verb=evict]').click()");
    browser.wait("document.querySelector('.done').textContent.includes('pages have new memory')");
    browser.wait("document.querySelector('.drawing .arrow.red')");
    browser.wait("document.querySelector('.findings details')");
    browser.run("document.querySelector('.findings details').open = true");
    browser.run("document.querySelector('.inwords').open = true");
    browser.run("document.querySelector('.hold').click()");
    assert_eq!(browser.run(LIVE_PROBE), json!([]));
    let said = browser.run("return document.querySelector('.words').textContent");
    assert!(said.as_str().is_some_and(|text| text.contains("stale")), "{said}");
    for width in [1280, 390] {
        browser.width(width);
        wrong.extend(browser.barriers(&format!("a running device at {width}")));
    }
    browser.run("document.querySelector('.hold').click()");
    browser.run("document.querySelector('[data-verb=revoke]').click()");
    // It is done, or refused with the reason: the device has a fence on it now and then.
    let done = "document.querySelector('.done').textContent";
    browser.wait(&format!("{done}.includes('revoke') && !{done}.endsWith('...')"));
    let pid = rustix::process::Pid::from_child(&child);
    rustix::process::kill_process(pid, rustix::process::Signal::TERM).expect("killed");
    browser.wait("document.querySelector('.state').textContent.includes('has ended')");
    assert_eq!(browser.errors(), Vec::<String>::new());
    let _status = child.wait();
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// A person edits, errs, mends, flips a rule, steps to the hazard, asks real memory.
#[test]
#[ignore = "needs chromium and chromium-driver; tools/check.d/30-pages runs it"]
fn play_is_used_as_a_person_would() {
    let server = Server::start(&[]);
    let browser = Browser::start();
    let mut wrong = Vec::new();
    for width in [1280, 390] {
        browser.width(width);
        browser.open(&format!("http://{}/?token={}", server.host(), server.token));
        browser.wait("document.querySelector('.answer .player:not([hidden])')");
        wrong.extend(browser.barriers(&format!("play at {width}")));
        browser.run("document.querySelector('details.lessons').open = true");
        wrong.extend(browser.barriers(&format!("the lessons at {width}")));
    }
    browser.width(1280);
    browser.run("document.querySelector('[data-lesson=insert-page-and-move]').click()");
    browser.wait("document.querySelector('.title').textContent === 'insert-page-and-move' && document.querySelector('.answer .player')");
    // A mistake, and its place.
    let typed = "const text = document.querySelector('#question'); text.value = text.value.replace(FROM, TO); text.dispatchEvent(new Event('input'))";
    let change = |from: &str, to: &str| {
        browser.run(
            &typed.replace("FROM", &json!(from).to_string()).replace("TO", &json!(to).to_string()),
        );
    };
    change("mmap v", "nmap v");
    browser.wait("document.querySelector('.mistakes pre')");
    let shown = browser.run("return document.querySelector('.mistakes pre').textContent");
    assert!(
        shown.as_str().is_some_and(|text| text.contains("nmap v") && text.contains("^^^^")),
        "{shown}"
    );
    wrong.extend(browser.barriers("a mistake"));
    browser.run("document.querySelector('.mistakes button').click()");
    let chosen = browser.run("const text = document.activeElement; return text.value.slice(text.selectionStart, text.selectionStart + 4)");
    assert_eq!(chosen, "nmap");
    change("nmap v", "mmap v");
    browser.wait("!document.querySelector('.mistakes pre')");
    // A rule is flipped, the verdict changes, and the hazard can be stepped to.
    let flip = |value: &str| {
        browser.run(&format!(
            "const one = document.querySelector('select[data-rule=\"exporter heap mmap\"]'); one.value = '{value}'; one.dispatchEvent(new Event('change'))"
        ));
    };
    let verdict = "document.querySelector('.answer tbody td:nth-child(3)')";
    flip("pfnmap");
    // With the rule set there is one variant.
    let one = "document.querySelectorAll('.answer tbody tr').length === 1";
    browser.wait(&format!("{one} && {verdict}.textContent.startsWith('Never')"));
    flip("mixedmap-insert-page");
    browser.wait(&format!("{verdict} && {verdict}.textContent === 'Sometimeswas Never'"));
    browser.run("document.querySelector('.answer .hazard').click()");
    let said = browser.run("return document.querySelector('.answer .said').textContent");
    assert!(said.as_str().is_some_and(|text| text.contains("! cross-buffer-write")), "{said}");
    let told = browser.run(PROBE);
    assert_eq!(told["wrong"], json!([]), "stepping by hand");
    // Real memory, and a race that is cancelled.
    browser.run("document.querySelector('.editor .replay').click()");
    browser.wait("!document.querySelector('pre.real').hidden");
    browser.run("document.querySelector('.editor .hunt').click()");
    browser.wait("document.querySelector('.progress').textContent.includes(' runs') || !document.querySelector('pre.real').hidden");
    browser.run("document.querySelector('.editor .cancel').click()");
    browser.wait(
        "!document.querySelector('pre.real').hidden && document.querySelector('.cancel').disabled",
    );
    assert_eq!(browser.errors(), Vec::<String>::new());
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    // A page of another origin gets nothing.
    let place = tempfile::tempdir().expect("a directory");
    let other = place.path().join("other.html");
    std::fs::write(&other, "<!doctype html><title>other</title>").expect("written");
    browser.open(&format!("file://{}", other.display()));
    let script = format!(
        "const done = arguments[0]; fetch('http://{}/answer', {{ method: 'POST', headers: {{ 'x-driftheap-token': '{}' }}, body: '{{\"text\":\"\"}}' }}).then((one) => done(String(one.status)), () => done('refused'))",
        server.host(),
        server.token
    );
    let told = browser.command("execute/async", &json!({ "script": script, "args": [] }));
    assert_eq!(told, "refused");
}

//! `run --web` and `serve --web` by plain HTTP: who is answered, what is told of a running device, what
//! may be ordered, and that it ends with the device.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod device_kit;
#[path = "common/http.rs"]
mod http;

use std::io::{BufRead as _, BufReader, Write as _};
use std::net::TcpStream;
use std::os::unix::process::ExitStatusExt as _;
use std::path::Path;
use std::process::{Child, ChildStderr, Command, Stdio};

use device_kit::{User, available, bounded, stage, text, users};
use serde_json::{Value, json};

/// A device with a page.
struct Device {
    child: Child,
    words: BufReader<ChildStderr>,
    port: u16,
    token: String,
}

impl Device {
    fn start(stage: &Path, user: User, arguments: &[&str]) -> Self {
        let driftheap = stage.join("driftheap").display().to_string();
        let mut argv = Vec::new();
        if user == User::Nobody {
            argv.extend(["setpriv", "--reuid", "65534", "--regid", "65534", "--clear-groups"]);
        }
        argv.push(&driftheap);
        argv.extend(arguments);
        let mut command = Command::new(argv[0]);
        command.args(&argv[1..]).current_dir(stage).stdin(Stdio::null()).stdout(Stdio::null());
        let mut child = command.stderr(Stdio::piped()).spawn().unwrap();
        let mut words = BufReader::new(child.stderr.take().unwrap());
        let (port, token) = http::address(&mut words);
        Self { child, words, port, token }
    }

    fn host(&self) -> String {
        format!("127.0.0.1:{}", self.port)
    }

    /// Ends it by a signal, which `run` passes on to its program.
    fn terminate(&self) {
        let pid = rustix::process::Pid::from_child(&self.child);
        rustix::process::kill_process(pid, rustix::process::Signal::TERM).unwrap();
    }

    fn get(&self, path: &str, headers: &[(&str, &str)]) -> u16 {
        let host = self.host();
        let headers: Vec<_> = if headers.iter().any(|(name, _)| *name == "Host") {
            headers.to_vec()
        } else {
            [&[("Host", host.as_str())], headers].concat()
        };
        http::exchange(&host, http::request("GET", path, &headers, "").as_bytes()).0
    }

    fn order(&self, token: &str, body: &Value) -> (u16, Value) {
        let host = self.host();
        let headers = [("Host", host.as_str()), ("X-Driftheap-Token", token)];
        let request = http::request("POST", "/order", &headers, &body.to_string());
        let (status, text) = http::exchange(&host, request.as_bytes());
        let (_, body) = text.split_once("\r\n\r\n").unwrap();
        (status, serde_json::from_str(body).unwrap_or(Value::Null))
    }

    fn events(&self) -> Events {
        let host = self.host();
        let path = format!("/events?token={}", self.token);
        let mut stream = http::connect(&host);
        let request = http::request("GET", &path, &[("Host", &host)], "");
        stream.write_all(request.as_bytes()).unwrap();
        Events(BufReader::new(stream))
    }
}

impl Drop for Device {
    fn drop(&mut self) {
        let _gone = self.child.kill();
        let _status = self.child.wait();
    }
}

/// What a page is told.
struct Events(BufReader<TcpStream>);

impl Events {
    fn next(&mut self) -> Option<(String, Value)> {
        let mut name = String::new();
        loop {
            let mut line = String::new();
            if self.0.read_line(&mut line).ok()? == 0 {
                return None;
            }
            if let Some(word) = line.strip_prefix("event: ") {
                word.trim().clone_into(&mut name);
            } else if let Some(data) = line.strip_prefix("data: ") {
                return Some((name, serde_json::from_str(data).unwrap()));
            }
        }
    }

    /// The first news of which this holds.
    fn wait(&mut self, what: &str, holds: impl Fn(&str, &Value) -> bool) -> Value {
        let mut last = Value::Null;
        while let Some((name, news)) = self.next() {
            if holds(&name, &news) {
                return news;
            }
            last = news;
        }
        panic!("{what} was never told; the last: {last}");
    }
}

fn kinds(news: &Value) -> Vec<&str> {
    let slots = news["drawing"]["slots"].as_array().unwrap().iter();
    slots.map(|slot| slot[1].as_str().unwrap()).collect()
}

/// Everything that is drawn has its place; each arrow leads from a slot to a cell.
fn check_drawing(drawing: &Value) {
    let count = |name: &str| drawing[name].as_array().unwrap().len();
    let (slots, cells, lanes) = (count("slots"), count("cells"), count("lanes"));
    for (name, expected) in
        [("lanes", lanes), ("slots", slots), ("cells", cells), ("notes", count("notes"))]
    {
        assert_eq!(
            drawing["layout"][name].as_array().unwrap().len(),
            expected,
            "{name}: {drawing}"
        );
    }
    assert_eq!((count("places"), count("doing")), (cells, lanes), "{drawing}");
    let below = |value: &Value, end: usize| usize::try_from(value.as_u64().unwrap()).unwrap() < end;
    for arrow in drawing["arrows"].as_array().unwrap() {
        assert!(below(&arrow["slot"], slots) && below(&arrow["to"], cells), "{drawing}");
    }
    let mut before = 0;
    for slot in drawing["slots"].as_array().unwrap() {
        let lane = slot[0].as_u64().unwrap();
        assert!(below(&slot[0], lanes) && lane >= before, "slots lie by lane: {drawing}");
        before = lane;
    }
}

/// Only who has the whole address is answered, and nothing but the page is there.
fn check_guard(device: &Device) {
    let own = &device.token;
    assert_eq!(device.get("/", &[]), 403, "no token");
    assert_eq!(device.get("/?token=00", &[]), 403, "a wrong one");
    assert_eq!(device.get("/events", &[]), 403, "no token");
    let document = format!("/?token={own}");
    assert_eq!(device.get(&document, &[]), 200);
    assert_eq!(device.get(&document, &[("Host", "evil.example")]), 403);
    assert_eq!(device.get(&document, &[("Origin", "http://evil.example")]), 403);
    assert_eq!(device.get(&format!("/../etc/passwd?token={own}"), &[]), 404);
}

/// What a page with `--web-control` may have done.
fn check_orders(device: &Device, ino: &Value) {
    let own = &device.token;
    let order = json!({ "verb": "evict", "ino": ino });
    assert_eq!(device.order("00", &order).0, 403);
    let (status, _) = device.order(own, &json!({ "verb": "zap", "ino": ino }));
    assert_eq!(status, 400);
    // A fence may be in its way for a second.
    let (status, done) = device.order(own, &order);
    assert_eq!(status, 200, "{done}");
    let (_, done) = device.order(own, &json!({ "verb": "purge", "ino": 1 }));
    assert_eq!(done["done"], false, "{done}");
}

/// The player of README, if there is a compiler.
fn player(stage: &Path) -> bool {
    let mut command = Command::new("cc");
    command.arg("-o").arg(stage.join("player"));
    command.arg(Path::new(env!("CARGO_MANIFEST_DIR")).join("tools/examples/player.c"));
    if Command::new("cc").arg("--version").stdout(Stdio::null()).status().is_err() {
        eprintln!("SKIP: no C compiler called cc");
        return false;
    }
    let output = bounded(command);
    assert!(output.status.success(), "{}", text(&output));
    true
}

#[test]
fn a_run_is_shown_from_its_beginning_to_its_end() {
    let stage = stage();
    if !available(stage.path()) || !player(stage.path()) {
        return;
    }
    for user in users() {
        let arguments = [
            "run",
            "-q",
            "--web-control",
            "--misuse",
            "--chaos",
            "1,rate=100",
            "--device",
            "camera,writes=frame,notify=ignored",
            "--control",
            "sock",
            "--",
            "./player",
            "600",
        ];
        let mut device = Device::start(stage.path(), user, &arguments);
        check_guard(&device);
        // What is told.
        let mut events = device.events();
        let whole = |_: &str, news: &Value| {
            let all = kinds(news);
            all.contains(&"map") && all.contains(&"sg")
        };
        let news = events.wait("a mapping and an sg_table", whole);
        check_drawing(&news["drawing"]);
        assert_eq!(news["buffers"][0]["name"], "frame");
        let used = news["buffers"][0]["users"].as_str().unwrap();
        assert!(used.contains("player") && used.contains("mapped"), "{used}");
        assert!(used.contains("device camera"), "{used}");
        let harm =
            |_: &str, news: &Value| !news["drawing"]["hazards"].as_array().unwrap().is_empty();
        let news = events.wait("an address that did harm", harm);
        check_drawing(&news["drawing"]);
        let at = &news["drawing"]["hazards"][0];
        let arrows = news["drawing"]["arrows"].as_array().unwrap();
        let red =
            arrows.iter().find(|one| (&one["slot"], &one["to"]) == (&at["slot"], &at["place"]));
        assert_eq!(red.unwrap()["stale"], true, "{news}");
        // A page that comes later is told what was found before.
        let mut late = device.events();
        let found =
            late.wait("findings", |_, news| !news["findings"].as_array().unwrap().is_empty());
        let text = found["findings"][0][1].as_str().unwrap();
        assert!(text.contains("BUG: driftheap: ") && text.contains("by camera"), "{text}");
        drop(late);
        let moved = |_: &str, news: &Value| {
            let mut events = news["events"].as_array().unwrap().iter();
            events.any(|line| line.as_str().unwrap().contains(" frame moved to vram: page"))
        };
        events.wait("a move", moved);
        check_orders(&device, &news["buffers"][0]["ino"]);
        // The end.
        device.terminate();
        let last = events.wait("the end", |name, _| name == "ended");
        check_drawing(&last["drawing"]);
        let mut words = String::new();
        std::io::Read::read_to_string(&mut device.words, &mut words).unwrap();
        assert_eq!(device.child.wait().unwrap().signal(), Some(15), "{words}");
        assert!(TcpStream::connect(device.host()).is_err(), "nobody listens any more");
    }
}

/// A program whose buffers stay where they are, and a page that only looks.
#[test]
fn without_control_nothing_is_ordered() {
    let stage = stage();
    if !available(stage.path()) || !player(stage.path()) {
        return;
    }
    let mut device =
        Device::start(stage.path(), User::Own, &["run", "--web", "--", "./player", "600"]);
    let mut events = device.events();
    let news = events.wait("a mapping", |_, news| kinds(news).contains(&"map"));
    check_drawing(&news["drawing"]);
    let (status, told) = device.order(&device.token, &json!({ "verb": "move", "ino": 1 }));
    assert_eq!(status, 403, "{told}");
    let why = told["error"].as_str().unwrap();
    assert!(why.contains("--web-control"), "{why}");
    assert!(news["looking"].as_str().unwrap().contains("--misuse"), "{news}");
    device.terminate();
    assert_eq!(device.child.wait().unwrap().signal(), Some(15));
    // A page holds up nobody, and a port that is taken is said before the program runs.
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = taken.local_addr().unwrap().port().to_string();
    let ran = device_kit::run(stage.path(), User::Own, &["--web-port", &port], &["touch", "ran"]);
    assert_eq!(ran.status.code(), Some(125), "{}", text(&ran));
    assert!(text(&ran).contains("can't listen on 127.0.0.1"), "{}", text(&ran));
    assert!(!stage.path().join("ran").exists());
}

/// An exporter behind a socket: its clients' mappings, attachments and what they did wrong.
#[test]
fn an_exporter_is_shown_with_its_clients() {
    use driftheap::client::{Connection, Importer};
    let stage = stage();
    let socket = stage.path().join("heap");
    let arguments = ["serve", "--socket", "heap", "--web-control", "--control", "sock"];
    if let Err(error) = driftheap::device::live::mover::Mover::new(Default::default()) {
        eprintln!("SKIP: {error}");
        return;
    }
    let device = Device::start(stage.path(), User::Own, &arguments);
    let client = Connection::open(&socket, "client").unwrap();
    let buffer = client.alloc("system", 8192).unwrap();
    buffer.set_name("picture").unwrap();
    let _mapping = buffer.map().unwrap();
    let gpu = buffer.attach("gpu", Importer::dynamic(|| ())).unwrap();
    let table = gpu.map(&buffer.lock().unwrap()).unwrap();
    let mut events = device.events();
    let whole = |_: &str, news: &Value| {
        let all = kinds(news);
        all.contains(&"map") && all.iter().filter(|kind| **kind == "sg").count() == 2
    };
    let news = events.wait("a mapping and two addresses", whole);
    check_drawing(&news["drawing"]);
    let ino = &news["buffers"][0]["ino"];
    let (_, done) = device.order(&device.token, &json!({ "verb": "evict", "ino": ino }));
    assert_eq!(done["done"], true, "{done}");
    let stale = |_: &str, news: &Value| {
        news["drawing"]["arrows"].as_array().unwrap().iter().any(|arrow| arrow["stale"] == true)
    };
    events.wait("a stale address", stale);
    // The device goes on with it.
    let _wrong = gpu.dma_write(table.addr(0), b"late");
    let news = events.wait("a finding", |_, news| !news["findings"].as_array().unwrap().is_empty());
    assert!(news["findings"][0][0].as_str().unwrap().contains("by gpu"), "{news}");
    device.terminate();
    events.wait("the end", |name, _| name == "ended");
}

/// A mount: who has its files open and mapped is found by the number of the mount.
#[test]
fn a_mount_is_shown_with_its_users() {
    let stage = stage();
    std::fs::create_dir(stage.path().join("mount")).unwrap();
    if !driftheap::sys::probe::fuse_mount_root().available {
        eprintln!("SKIP: a mount needs root here");
        return;
    }
    let arguments = ["serve", "--mount", "mount", "--web-control", "--control", "sock"];
    let device = Device::start(stage.path(), User::Own, &arguments);
    let script = "import fcntl, mmap, os, struct, sys\n\
        heap = os.open('mount/dma_heap/system', os.O_RDWR)\n\
        ask = bytearray(struct.pack('QIIQ', 8192, 0, os.O_RDWR, 0))\n\
        fcntl.ioctl(heap, 0xC0184800, ask)\n\
        fd = os.open('mount/buffers/%d' % struct.unpack('QIIQ', ask)[1], os.O_RDWR)\n\
        view = mmap.mmap(fd, 8192)\n\
        view[0] = 1\n\
        sys.stdin.read()\n";
    let mut command = Command::new("python3");
    command.args(["-c", script]).current_dir(stage.path());
    let Ok(mut user) = command.stdin(Stdio::piped()).spawn() else {
        eprintln!("SKIP: no python3");
        return;
    };
    let mut events = device.events();
    let news = events.wait("a mapping", |_, news| kinds(news).contains(&"map"));
    check_drawing(&news["drawing"]);
    let ino = &news["buffers"][0]["ino"];
    let (_, done) = device.order(&device.token, &json!({ "verb": "evict", "ino": ino }));
    assert_eq!(done["done"], true, "{done}");
    events.wait("its new place", |_, news| news["buffers"][0]["where"] == "system");
    drop(user.stdin.take());
    user.wait().unwrap();
    device.terminate();
    events.wait("the end", |name, _| name == "ended");
}

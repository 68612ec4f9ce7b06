//! The first minutes of a newcomer: the test pastes the programs of the README and of the guide's first chapter into
//! empty projects that depend on the packaged crate, builds the programs and runs them.
//!
//! `cargo test --all-features --test packaged` needs curl and tar. The projects share a build directory.
#![allow(clippy::unwrap_used)] // A failed step ends the test.

use std::{
    fs,
    io::{BufRead, BufReader},
    net::{Ipv4Addr, TcpListener},
    path::{Path, PathBuf},
    process::{Child, Command, Output, Stdio},
    thread,
    time::Duration,
};

const README: &str = include_str!("../README.md");
const FIRST_STEPS: &str = include_str!("../src/guide/first_steps.md");
/// The port of the programs, which each test replaces by a free port.
const PORT: &str = "127.0.0.1:3000";

fn scratch() -> PathBuf {
    PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join("packaged")
}

/// Runs a command and returns its standard output. A failing command fails the test with the command's whole output.
fn run(command: &mut Command) -> String {
    let Output { status, stdout, stderr } = command.output().unwrap();
    let (stdout, stderr) = (String::from_utf8(stdout).unwrap(), String::from_utf8_lossy(&stderr));
    assert!(status.success(), "{command:?}: {stdout}{stderr}");
    stdout
}

fn cargo(folder: &Path) -> Command {
    let mut command = Command::new(env!("CARGO"));
    command.current_dir(folder).env("CARGO_TARGET_DIR", scratch().join("build"));
    command
}

/// Packages the crate as `cargo publish` would, and unpacks the package.
fn packaged() -> PathBuf {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    run(cargo(root).args(["package", "--no-verify", "--allow-dirty", "--quiet"]));
    let name = concat!("layered-session-", env!("CARGO_PKG_VERSION"));
    fs::remove_dir_all(scratch().join(name)).ok();
    let archive = scratch().join(format!("build/package/{name}.crate"));
    run(Command::new("tar").arg("--extract").arg("--gzip").arg("--file").arg(archive).current_dir(scratch()));
    scratch().join(name)
}

/// Returns the code blocks of a language, in order.
fn blocks<'a>(text: &'a str, language: &str) -> Vec<&'a str> {
    let fence = format!("\n```{language}\n");
    text.split(&fence).skip(1).map(|rest| rest.split_once("\n```").expect("the block has an end").0).collect()
}

/// An empty project, made by the commands of an install block.
struct Project {
    folder: PathBuf,
}

impl Project {
    fn new(name: &str, package: &Path, install: &str) -> Self {
        let folder = scratch().join(name);
        fs::remove_dir_all(&folder).ok();
        run(cargo(&scratch()).args(["new", "--quiet", "--vcs", "none", name]));
        for line in install.lines().filter(|line| line.starts_with("cargo add ")) {
            let mut words: Vec<_> = line.split_whitespace().skip(1).collect();
            // No registry has the crate yet, so a path to the package takes the place of the name.
            if let Some(at) = words.iter().position(|word| *word == "layered-session") {
                words.remove(at);
                run(cargo(&folder).args(["add", "--quiet", "--path"]).arg(package));
            }
            if words.len() > 1 {
                run(cargo(&folder).args(words).arg("--quiet"));
            }
        }
        Self { folder }
    }

    fn write(&self, program: &str) {
        fs::write(self.folder.join("src/main.rs"), program).unwrap();
    }

    /// Builds a program and starts it on a free port.
    fn start(&self, program: &str) -> Server {
        let port = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap().local_addr().unwrap().port();
        let address = format!("127.0.0.1:{port}");
        assert_eq!(program.matches(PORT).count(), 1, "the program names its address once");
        self.write(&program.replace(PORT, &address));
        run(cargo(&self.folder).args(["build", "--quiet"]));
        let binary = scratch().join("build/debug").join(self.folder.file_name().unwrap());
        let state = self.folder.join("state");
        let process = Command::new(binary).env("XDG_STATE_HOME", state).stderr(Stdio::null()).spawn().unwrap();
        let server = Server { process, address, jar: self.folder.join("jar") };
        let answers = || server.try_curl("/", &[]).is_ok_and(|output| output.status.success());
        let answers = (0..100).any(|_| {
            answers() || {
                thread::sleep(Duration::from_millis(100));
                false
            }
        });
        assert!(answers, "the server answers");
        server
    }

    /// Returns the compiler's messages for a program that does not compile.
    fn refused(&self, program: &str, arguments: &[&str]) -> String {
        self.write(program);
        let Output { status, stderr, .. } = cargo(&self.folder).args(arguments).output().unwrap();
        assert!(!status.success(), "the program compiles");
        String::from_utf8(stderr).unwrap()
    }
}

struct Server {
    process: Child,
    address: String,
    jar: PathBuf,
}

impl Server {
    fn try_curl(&self, path: &str, arguments: &[&str]) -> std::io::Result<Output> {
        Command::new("curl").args(["--silent", "--max-time", "10"]).args(arguments).arg(self.url(path)).output()
    }

    fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.address)
    }

    /// Sends a request with the cookies of the project's jar, and returns the body.
    fn curl(&self, path: &str, arguments: &[&str]) -> String {
        let mut command = Command::new("curl");
        command.args(["--silent", "--show-error", "--fail", "--location", "--max-time", "10"]);
        run(command
            .arg("--cookie")
            .arg(&self.jar)
            .arg("--cookie-jar")
            .arg(&self.jar)
            .args(arguments)
            .arg(self.url(path)))
    }

    /// Returns the first line of an event stream that contains a text.
    fn event(&self, path: &str, text: &str) -> String {
        let mut command = Command::new("curl");
        command.args(["--silent", "--no-buffer", "--max-time", "10"]).arg("--cookie").arg(&self.jar);
        command.args(["--header", "accept: text/event-stream", "--header", "sec-fetch-site: same-origin"]);
        let mut curl = command.arg(self.url(path)).stdout(Stdio::piped()).spawn().unwrap();
        let lines = BufReader::new(curl.stdout.take().unwrap()).lines();
        let line = lines.map(Result::unwrap).find(|line| line.contains(text)).expect("the stream brings the event");
        curl.kill().unwrap();
        curl.wait().unwrap();
        line
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.process.kill().ok();
        self.process.wait().ok();
    }
}

// The steps share the package and the build directory, so they form one test.
#[test]
fn readme_and_first_chapter_programs_run() {
    fs::create_dir_all(scratch()).unwrap();
    let package = packaged();
    let install = blocks(README, "sh")[0];
    let [first, live] = blocks(README, "rust,no_run").try_into().expect("two programs");

    assert!(first.lines().count() <= 25, "the README's first program has 25 lines at most");
    let project = Project::new("first", &package, install);
    assert_eq!(project.start(first).curl("/", &[]), "You were here 0 times before.");
    let server = project.start(first);
    assert_eq!(server.curl("/", &[]), "You were here 1 times before.", "the count survives a restart");
    drop(server);

    let said = project.refused(MISTAKES, &["build"]);
    for expected in [
        "`String` is not a session value",
        "`#[derive(Serialize, Deserialize)] struct Theme(String);`",
        "write `LayeredSessionLayer::new(sessions)` here",
        "`MemoryTierBuilder` is not a tier",
        "`Absent` is not a tier",
        "`SharedTier::new(store)` around a type that implements `layered_session::tier::Store`",
        "`Nothing` is not a shared store",
        "a read-only source goes into the chain as it is: `.tier(source)`",
    ] {
        assert!(said.contains(expected), "{expected} is missing in {said}");
    }

    let said = project.refused(first, &["check", "--release"]);
    assert!(said.contains("no function or associated item named `development`"), "{said}");
    project.write(&first.replace(r#"development("visits")"#, r#"from_env("SESSION_KEYS")"#));
    run(cargo(&project.folder).args(["check", "--release", "--quiet"]));

    let project = Project::new("live", &package, install);
    let server = project.start(live);
    assert!(server.curl("/", &[]).contains("/session/hook.js"));
    assert!(server.curl("/session/hook.js", &[]).contains("export"));
    let page = ["--header", "sec-fetch-site: same-origin", "--json", r#"{"division": 2}"#];
    server.curl("/session", &page);
    assert!(server.event("/session/events", "division").contains(r#""division":2"#));
    drop(server);

    let install = blocks(FIRST_STEPS, "sh")[0];
    let program = blocks(FIRST_STEPS, "rust,no_run")[0];
    assert!(program.lines().count() < 40, "the first chapter's program has under 40 lines");
    let project = Project::new("division", &package, install);
    let server = project.start(program);
    server.curl("/", &["--data", "id=3"]);
    assert!(server.curl("/", &[]).contains("value=3"));
    drop(server);
    assert!(project.start(program).curl("/", &[]).contains("value=3"), "the choice survives a restart");
}

/// Natural mistakes. The compiler explains each mistake in words of this crate.
const MISTAKES: &str = r#"
use axum::Router;
use layered_session::{MemoryTier, Session, Sessions, SharedTier};
use layered_session::tier::{Ask, Commit, Committed, Found, Lookup, Snapshot, Source, Store, StoreFuture, Touch, TierFuture};

#[derive(Debug)]
struct Nothing;

impl Source for Nothing {
    fn name(&self) -> &'static str {
        "nothing"
    }

    fn read<'a>(&'a self, _: Lookup<'a>) -> TierFuture<'a, Found> {
        TierFuture::ready(Ok(Found::nothing()))
    }
}

#[derive(Debug)]
struct Absent;

impl Store for Absent {
    fn name(&self) -> &'static str {
        "absent"
    }

    fn read<'a>(&'a self, asks: &'a [Ask]) -> StoreFuture<'a, Vec<Snapshot>> {
        StoreFuture::ready(Ok(asks.iter().map(|_| Snapshot::Absent).collect()))
    }

    fn commit<'a>(&'a self, _: Commit<'a>) -> StoreFuture<'a, Committed> {
        StoreFuture::ready(Ok(Committed::Absent))
    }

    fn touch<'a>(&'a self, _: &'a [Touch]) -> StoreFuture<'a, ()> {
        StoreFuture::ready(Ok(()))
    }
}

async fn set(session: Session) {
    session.set(String::from("dark")).await.ok();
}

fn app(sessions: Sessions) -> Router {
    Router::new().layer(sessions)
}

fn main() {
    Sessions::builder().tier(MemoryTier::builder());
    Sessions::builder().tier(Absent);
    SharedTier::new(Nothing);
}
"#;

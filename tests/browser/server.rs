//! An example in a process of its own. The port and the keys stay the same over restarts.

use std::{
    collections::HashMap,
    env, fs,
    io::{BufRead, BufReader, Read},
    net::{Ipv4Addr, SocketAddr, TcpListener},
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus, Stdio, id},
    sync::{
        LazyLock, Mutex, PoisonError,
        atomic::{AtomicU16, Ordering},
        mpsc,
    },
    thread,
    time::{Duration, Instant},
};

use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

use crate::Result;

/// Two keys: the first key seals, and the second key is the old key of a rotation.
const KEYS: &str = "00112233445566778899aabbccddeeff0123456789abcdeffedcba9876543210,\
                    ffeeddccbbaa99887766554433221100fedcba98765432100123456789abcdef";

/// The longest wait until the example is ready, or has stopped.
const READY: Duration = Duration::from_secs(30);
const STOP: Duration = Duration::from_secs(5);

#[derive(Debug)]
pub(crate) struct Server {
    example: &'static str,
    process: Process,
    port: u16,
    keys: Keys,
}

/// The source of the keys that seal the cookie.
#[derive(Debug)]
enum Keys {
    /// The variable `SESSION_KEYS`.
    Environment,
    /// A state directory, in which the example keeps its own key.
    State(PathBuf),
}

impl Keys {
    fn give(&self, command: &mut Command) {
        match self {
            Self::Environment => command.env("SESSION_KEYS", KEYS),
            Self::State(folder) => command.env_remove("SESSION_KEYS").env("XDG_STATE_HOME", folder),
        };
    }
}

impl Server {
    /// Starts the `division` example.
    pub(crate) fn start() -> Result<Self> {
        Self::of("division")
    }

    pub(crate) fn of(example: &'static str) -> Result<Self> {
        Self::sealed_by(Keys::Environment, example)
    }

    /// Starts an example without `SESSION_KEYS`. The folder stands for the state directory of a new user.
    pub(crate) fn without_keys(example: &'static str) -> Result<Self> {
        let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("state-{}-{}", id(), free_port()));
        Self::sealed_by(Keys::State(folder), example)
    }

    fn sealed_by(keys: Keys, example: &'static str) -> Result<Self> {
        let port = free_port();
        Ok(Self { example, process: serve(Command::new(built(example)?), port, &keys)?, port, keys })
    }

    /// Starts the `division` example with this idle lifetime of sessions.
    pub(crate) fn idle_after(idle: Duration) -> Result<Self> {
        let (example, port, keys) = ("division", free_port(), Keys::Environment);
        let mut command = Command::new(built(example)?);
        command.env("IDLE_SECONDS", idle.as_secs().to_string());
        Ok(Self { example, process: serve(command, port, &keys)?, port, keys })
    }

    /// Stops the example as a deploy does, even with open sockets, and starts the example again: same port, same keys,
    /// empty memory.
    pub(crate) fn restart(&mut self) -> Result {
        self.stop()?;
        self.start_again()
    }

    /// Sends SIGTERM. The example must exit with 0 within five seconds.
    pub(crate) fn stop(&mut self) -> Result {
        match self.process.terminate()? {
            Some(status) if status.success() => Ok(()),
            Some(status) => Err(format!("stopped with {status}").into()),
            None => Err(format!("still there {STOP:?} after SIGTERM").into()),
        }
    }

    pub(crate) fn start_again(&mut self) -> Result {
        self.process = serve(Command::new(built(self.example)?), self.port, &self.keys)?;
        Ok(())
    }

    pub(crate) fn url(&self) -> String {
        format!("http://{}/", self.address())
    }

    pub(crate) fn address(&self) -> SocketAddr {
        (Ipv4Addr::LOCALHOST, self.port).into()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        if let Keys::State(folder) = &self.keys {
            fs::remove_dir_all(folder).unwrap_or_else(|error| println!("{} stays: {error}", folder.display()));
        }
    }
}

fn serve(mut command: Command, port: u16, keys: &Keys) -> Result<Process> {
    command.env("PORT", port.to_string());
    keys.give(&mut command);
    let (process, line) = Process::start(command, "listening on ", READY)?;
    match line.strip_suffix('/').unwrap_or(&line).ends_with(&format!("http://127.0.0.1:{port}")) {
        true => Ok(process),
        false => Err(format!("asked for port {port}, got {line:?}").into()),
    }
}

/// The path of an example's executable. The first call builds the executable.
fn built(example: &'static str) -> Result<PathBuf> {
    static EXAMPLES: LazyLock<Mutex<HashMap<&'static str, PathBuf>>> = LazyLock::new(Mutex::default);

    let mut examples = EXAMPLES.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(executable) = examples.get(example) {
        return Ok(executable.clone());
    }
    let executable = build(example)?;
    examples.insert(example, executable.clone());
    Ok(executable)
}

/// Builds the example beside this test, into the same target directory, and asks cargo for the path.
fn build(example: &str) -> Result<PathBuf> {
    let target = Path::new(env!("CARGO_TARGET_TMPDIR")).parent().ok_or("no target directory")?;
    let built = Command::new(env!("CARGO"))
        .args(["build", "--example", example, "--all-features", "--message-format", "json-render-diagnostics"])
        .args(["--manifest-path", concat!(env!("CARGO_MANIFEST_DIR"), "/Cargo.toml"), "--target-dir"])
        .arg(target)
        .stderr(Stdio::inherit())
        .output()?;
    if !built.status.success() {
        return Err(format!("the {example} example does not build").into());
    }
    let executable = built.stdout.lines().find_map(|line| {
        let message: Value = serde_json::from_str(&line.ok()?).ok()?;
        (message["target"]["name"] == example).then_some(())?;
        Some(PathBuf::from(message["executable"].as_str()?))
    });
    Ok(executable.ok_or_else(|| format!("cargo named no executable for the {example} example"))?)
}

/// Finds a port below the range from which the system assigns ports, so that the port stays free while the server
/// restarts.
fn free_port() -> u16 {
    static NEXT: LazyLock<AtomicU16> = LazyLock::new(|| AtomicU16::new((id() % 10_000) as u16));

    let free = |port: &u16| TcpListener::bind((Ipv4Addr::LOCALHOST, *port)).is_ok();
    let ports = std::iter::repeat_with(|| 20_000 + NEXT.fetch_add(1, Ordering::Relaxed) % 12_000);
    ports.take(12_000).find(free).expect("one of 12,000 ports is free")
}

/// A child process that stops when its owner is dropped, whether a test passes or panics.
#[derive(Debug)]
pub(crate) struct Process(Child);

impl Process {
    /// Starts the program and waits for the first line of its output that contains `ready`. The test prints all output
    /// of the program, before that line and after.
    pub(crate) fn start(mut command: Command, ready: &'static str, within: Duration) -> Result<(Self, String)> {
        let program = command.get_program().to_string_lossy().into_owned();
        let mut child = command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn()?;
        let (line, found) = mpsc::channel();
        let outputs: [Option<Box<dyn Read + Send>>; 2] =
            [child.stdout.take().map(|out| Box::new(out) as _), child.stderr.take().map(|err| Box::new(err) as _)];
        for output in outputs.into_iter().flatten() {
            let (program, line) = (program.clone(), line.clone());
            thread::spawn(move || {
                for text in BufReader::new(output).lines().map_while(Result::ok) {
                    println!("{program}: {text}");
                    if text.contains(ready) {
                        let _ = line.send(text);
                    }
                }
            });
        }
        drop(line);
        let process = Self(child);
        match found.recv_timeout(within) {
            Ok(line) => Ok((process, line)),
            Err(error) => Err(format!("{program} never said {ready:?}: {error}").into()),
        }
    }

    /// Asks the process to exit, and returns `None` if the process still runs after five seconds.
    fn terminate(&mut self) -> Result<Option<ExitStatus>> {
        if let Some(status) = self.0.try_wait()? {
            return Ok(Some(status));
        }
        kill_process(Pid::from_child(&self.0), Signal::TERM)?;
        let deadline = Instant::now() + STOP;
        while Instant::now() < deadline {
            if let Some(status) = self.0.try_wait()? {
                return Ok(Some(status));
            }
            thread::sleep(Duration::from_millis(10));
        }
        Ok(None)
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        if !matches!(self.terminate(), Ok(Some(_))) {
            let _ = self.0.kill();
            let _ = self.0.wait();
        }
    }
}

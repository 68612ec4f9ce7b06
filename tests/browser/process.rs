//! A child process of a test, and the examples as processes.

use std::{
    collections::HashMap,
    env,
    io::{BufRead, BufReader, Read},
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus, Stdio},
    sync::{LazyLock, Mutex, PoisonError, mpsc},
    thread,
    time::{Duration, Instant},
};

use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

/// The error of a test. Only the reader of a failed test sees the text.
pub(crate) type Result<T = (), E = Box<dyn std::error::Error + Send + Sync>> = std::result::Result<T, E>;

/// The longest wait until the example is ready, or has stopped.
const READY: Duration = Duration::from_secs(30);
pub(crate) const STOP: Duration = Duration::from_secs(5);

/// Starts an example on this port, and waits until the example listens.
pub(crate) fn serve(mut command: Command, port: u16) -> Result<Process> {
    command.env("PORT", port.to_string());
    let (process, line) = Process::start(command, "listening on ", READY)?;
    match line.strip_suffix('/').unwrap_or(&line).ends_with(&format!("http://127.0.0.1:{port}")) {
        true => Ok(process),
        false => Err(format!("asked for port {port}, got {line:?}").into()),
    }
}

/// The path of an example's executable. The first call builds the executable.
pub(crate) fn built(example: &'static str) -> Result<PathBuf> {
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
    pub(crate) fn terminate(&mut self) -> Result<Option<ExitStatus>> {
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

//! An example in a process of its own. The port and the keys stay the same over restarts.

use std::{
    fs,
    net::{Ipv4Addr, SocketAddr},
    path::{Path, PathBuf},
    process::{Command, id},
    time::Duration,
};

use crate::{
    Result,
    port::free_port,
    process::{Process, STOP, built, serve},
};

/// Two keys: the first key seals, and the second key is the old key of a rotation.
const KEYS: &str = "00112233445566778899aabbccddeeff0123456789abcdeffedcba9876543210,\
                    ffeeddccbbaa99887766554433221100fedcba98765432100123456789abcdef";

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
    fn give(&self, mut command: Command) -> Command {
        match self {
            Self::Environment => command.env("SESSION_KEYS", KEYS),
            Self::State(folder) => command.env_remove("SESSION_KEYS").env("XDG_STATE_HOME", folder),
        };
        command
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
        Ok(Self { example, process: serve(keys.give(Command::new(built(example)?)), port)?, port, keys })
    }

    /// Starts the `division` example with this idle lifetime of sessions.
    pub(crate) fn idle_after(idle: Duration) -> Result<Self> {
        Self::with("division", [("IDLE_SECONDS", idle.as_secs().to_string())])
    }

    /// Starts an example with further variables of its environment.
    pub(crate) fn with<const N: usize>(example: &'static str, variables: [(&str, String); N]) -> Result<Self> {
        let (port, keys) = (free_port(), Keys::Environment);
        let mut command = keys.give(Command::new(built(example)?));
        command.envs(variables);
        Ok(Self { example, process: serve(command, port)?, port, keys })
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
        self.process = serve(self.keys.give(Command::new(built(self.example)?)), self.port)?;
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

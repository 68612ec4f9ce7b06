//! The keys that seal the cookie: from the environment, else one that is made at the first start and kept.

use std::{
    env, fs, io,
    io::Write,
    path::{Path, PathBuf},
    process,
};

use layered_session::{KeyRing, tier::BoxError};
use rand::{TryRng, rngs::SysRng};

/// `SESSION_KEYS` is a comma-separated list of hex keys, of which the first one seals. For development without it,
/// one is kept in `target/division.key`, so that a restart keeps everybody's session.
pub(crate) fn key_ring() -> Result<KeyRing, BoxError> {
    if env::var_os("SESSION_KEYS").is_some() {
        return Ok(KeyRing::from_env("SESSION_KEYS")?);
    }
    // `cargo run` says where the package is; a binary that is started by itself uses its working directory.
    let package = env::var_os("CARGO_MANIFEST_DIR").map(PathBuf::from).unwrap_or_default();
    let path = package.join("target/division.key");
    let key = kept(&path).map_err(|error| format!("{}: {error}", path.display()))?;
    Ok(KeyRing::from_hex(key.trim()).map_err(|error| format!("{}: {error}", path.display()))?)
}

/// The key in `path`, made where there is none.
fn kept(path: &Path) -> io::Result<String> {
    match fs::read_to_string(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        kept => return kept,
    }
    if let Some(folder) = path.parent() {
        fs::create_dir_all(folder)?;
    }
    // Written whole under a name of its own, then linked: no reader sees half a key, and of two processes that start
    // at once both use the one that was there first.
    let draft = path.with_extension(format!("key.{}", process::id()));
    let made = private(&draft).and_then(|mut file| {
        writeln!(file, "{}", fresh()?)?;
        file.sync_all()?;
        fs::hard_link(&draft, path)
    });
    fs::remove_file(&draft).ok();
    match made {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => Err(error),
        _ => fs::read_to_string(path),
    }
}

/// 32 bytes from the operating system, in hex.
fn fresh() -> io::Result<String> {
    let mut key = [0; 32];
    SysRng.try_fill_bytes(&mut key).map_err(io::Error::other)?;
    Ok(key.iter().map(|byte| format!("{byte:02x}")).collect())
}

/// A new file that nobody else may read.
fn private(path: &Path) -> io::Result<fs::File> {
    let mut options = fs::OpenOptions::new();
    options.write(true).create_new(true);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    options.open(path)
}

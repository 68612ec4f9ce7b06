//! The accounts and their passwords. An application keeps the hashes in its database.

use std::{collections::HashMap, sync::Arc, thread::available_parallelism};

use argon2::{
    Argon2,
    password_hash::{Error, PasswordHasher, PasswordVerifier, phc::PasswordHash},
};
use layered_session::tier::BoxError;
use tokio::{sync::Semaphore, task::spawn_blocking};

use crate::values::User;

/// An account of the example.
pub(crate) struct Sample {
    pub(crate) name: &'static str,
    pub(crate) password: &'static str,
    pub(crate) loans: [(&'static str, &'static str); 2],
}

pub(crate) const SAMPLES: [Sample; 2] = [
    Sample {
        name: "ada",
        password: "weaving-patterns",
        loans: [("The Mechanism of the Heavens", "due in 4 days"), ("On the Economy of Machinery", "due in 12 days")],
    },
    Sample {
        name: "grace",
        password: "wire-nanosecond",
        loans: [("A Manual of Operation", "due tomorrow"), ("Celestial Navigation", "due in 9 days")],
    },
];

#[derive(Debug)]
pub(crate) struct Accounts {
    /// The hash of each user's password, as a PHC string.
    hashes: HashMap<&'static str, String>,
    /// The hash that stands in for the account of an unknown name.
    nobody: String,
    /// The permits of password checks. A check takes 19 MiB and a core, so more checks at a time than cores would only
    /// take more memory.
    checks: Arc<Semaphore>,
}

impl Accounts {
    /// Hashes the passwords of the sample accounts.
    pub(crate) fn of_samples() -> Result<Self, BoxError> {
        let hash = |password: &str| -> Result<String, BoxError> {
            let hash: PasswordHash = Argon2::default().hash_password(password.as_bytes())?;
            Ok(hash.to_string())
        };
        let hashes = SAMPLES.iter().map(|sample| Ok((sample.name, hash(sample.password)?)));
        let cores = available_parallelism().map_or(1, Into::into);
        Ok(Self {
            hashes: hashes.collect::<Result<_, BoxError>>()?,
            nobody: hash("")?,
            checks: Arc::new(Semaphore::new(cores)),
        })
    }

    /// Finds the user, if there is an account of this name and the password is right.
    ///
    /// The example limits no rate. An application limits the attempts per name and per address, outside of the session: a
    /// program that guesses passwords brings no cookie.
    pub(crate) async fn check(self: Arc<Self>, name: String, password: String) -> Result<Option<User>, BoxError> {
        let permit = Arc::clone(&self.checks).acquire_owned().await?;
        // The check holds its permit to the end, even if the browser leaves earlier.
        spawn_blocking(move || {
            let _permit = permit;
            self.verify(name, &password)
        })
        .await?
    }

    /// Checks the password. An unknown name costs the same hash as a wrong password: the time of the answer must not
    /// show whether a name exists.
    fn verify(&self, name: String, password: &str) -> Result<Option<User>, BoxError> {
        let account = self.hashes.get(name.as_str());
        let hash = account.unwrap_or(&self.nobody);
        match Argon2::default().verify_password(password.as_bytes(), hash.as_str()) {
            Ok(()) => Ok(account.map(|_| User { name })),
            Err(Error::PasswordInvalid) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }
}

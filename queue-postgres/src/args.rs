//! The values of a statement.

use sqlx::{Arguments as _, Encode, Postgres, Type, error::BoxDynError, postgres::PgArguments};

/// Values in the order of `$1`, `$2` and so on. The first that cannot be encoded fails the statement.
#[derive(Default)]
pub(crate) struct Args {
    values: PgArguments,
    fault: Option<BoxDynError>,
}

impl Args {
    pub(crate) fn new() -> Self {
        Args::default()
    }

    /// Adds a value.
    pub(crate) fn with<'q, T>(mut self, value: T) -> Self
    where
        T: Encode<'q, Postgres> + Type<Postgres> + 'q,
    {
        if let Err(fault) = self.values.add(value) {
            self.fault.get_or_insert(fault);
        }
        self
    }

    /// How many there are.
    #[cfg(test)]
    pub(crate) fn len(&self) -> usize {
        self.values.len()
    }

    pub(crate) fn finish(self) -> Result<PgArguments, sqlx::Error> {
        match self.fault {
            None => Ok(self.values),
            Some(fault) => Err(sqlx::Error::Encode(fault)),
        }
    }
}

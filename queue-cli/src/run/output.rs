//! The file with the outputs of all jobs.

use std::{
    fs::{self, File},
    io::{self, BufWriter, Write},
    path::Path,
};

use queue::Payload;

use crate::failure::Failure;

/// Writes one line for each output. The file appears as a whole or not at all: it is written beside
/// and renamed.
pub(super) fn write<'a>(
    path: &Path,
    outputs: impl Iterator<Item = &'a Payload>,
) -> Result<(), Failure> {
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(format!(".{}.tmp", std::process::id()));
    let beside = path.with_file_name(name);
    let result = write_lines(&beside, outputs).and_then(|()| fs::rename(&beside, path));
    result.map_err(|error| {
        // It may not be there.
        let _ = fs::remove_file(&beside);
        Failure::caused(format!("cannot write {}", path.display()), &error)
    })
}

fn write_lines<'a>(path: &Path, outputs: impl Iterator<Item = &'a Payload>) -> io::Result<()> {
    let mut file = BufWriter::new(File::create(path)?);
    for output in outputs {
        // Line breaks are not allowed within JSON strings, so those here stand between its parts.
        writeln!(file, "{}", output.as_str().replace(['\n', '\r'], " "))?;
    }
    file.into_inner()?.sync_all()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_output_is_one_line_and_an_earlier_file_is_replaced() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("out.jsonl");
        fs::write(&path, "earlier").unwrap();
        let outputs =
            ["{\n\"a\": \"x\\ny\"\r\n}", "null"].map(|text| Payload::from_text(text).unwrap());
        write(&path, outputs.iter()).unwrap();
        assert_eq!(fs::read_to_string(&path).unwrap(), "{ \"a\": \"x\\ny\"  }\nnull\n");
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
    }

    #[test]
    fn a_file_that_cannot_be_written_is_named() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("missing/out.jsonl");
        let failure = write(&path, [].iter()).unwrap_err();
        assert!(failure.message().contains("missing/out.jsonl"), "{failure}");
    }
}

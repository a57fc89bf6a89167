//! How much memory a search may take.

/// The least that is worth a search.
const BYTES_MIN: u64 = 16 << 20;
/// Where the machine does not say what is free.
const BYTES_UNKNOWN: u64 = 4 << 30;

/// The value of `--memory`.
pub(super) fn size(text: &str) -> Result<u64, String> {
    let bytes = driftheap::device::rules::parse_size(text).map_err(|error| error.to_string())?;
    if bytes < BYTES_MIN {
        return Err(format!("a search takes {}M at least", BYTES_MIN >> 20));
    }
    Ok(bytes)
}

/// Half of what is free now: of the machine, or of the control group where that is less.
pub(super) fn half_of_free() -> u64 {
    let machine = std::fs::read_to_string("/proc/meminfo").ok().and_then(|text| available(&text));
    let read = |name: &str| {
        let text = std::fs::read_to_string(format!("/sys/fs/cgroup/{name}")).ok()?;
        text.trim().parse::<u64>().ok()
    };
    let group =
        read("memory.max").map(|max| max.saturating_sub(read("memory.current").unwrap_or(0)));
    let free = machine.into_iter().chain(group).min();
    free.map_or(BYTES_UNKNOWN, |free| (free / 2).max(BYTES_MIN))
}

/// `MemAvailable` of /proc/meminfo in bytes.
fn available(meminfo: &str) -> Option<u64> {
    let line = meminfo.lines().find_map(|line| line.strip_prefix("MemAvailable:"))?;
    let kib: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    Some(kib << 10)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_free_is_read_off_meminfo() {
        let text = "MemTotal:       2000 kB\nMemFree:  10 kB\nMemAvailable:    1000 kB\n";
        assert_eq!(available(text), Some(1000 << 10));
        assert_eq!(available("MemTotal:       2000 kB\n"), None);
        assert!(half_of_free() >= BYTES_MIN);
    }
}

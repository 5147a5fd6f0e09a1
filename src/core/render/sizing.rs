//! Memory and disk space for each server. PostgreSQL and Redis share the machine.

use crate::machine::MachineFacts;
use serde::Serialize;

/// Sizes in MiB.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub(super) struct Sizes {
    pub(crate) shared_buffers: u64,
    pub(crate) effective_cache: u64,
    pub(crate) work_mem: u64,
    pub(crate) maintenance_work_mem: u64,
    /// WAL between two checkpoints.
    pub(crate) max_wal: u64,
    /// WAL retained for an absent standby; a standby that lags further is cloned again.
    pub(crate) max_slot_wal: u64,
    /// WAL segments of 16 MiB that wait for the repository of the backups; the same WAL as that for an absent standby.
    pub(crate) archive_queue: u64,
    pub(crate) redis_memory: u64,
    pub(crate) redis_backlog: u64,
    /// Writes that a primary keeps for one replica that does not read them yet, as during its first transfer.
    pub(crate) redis_replica_buffer: u64,
}

/// `replicas`: how many Redis replicas the cluster has.
pub(super) fn sizes(machine: &MachineFacts, replicas: usize) -> Sizes {
    let memory = machine.memory_mib;
    let disk = machine.data_mib;
    let max_slot_wal = (disk / 8).clamp(512, 65536);
    let redis_memory = (memory / 4).max(64);
    Sizes {
        shared_buffers: (memory / 4).clamp(64, 16384),
        effective_cache: (memory / 2).max(128),
        work_mem: (memory / 512).clamp(4, 64),
        maintenance_work_mem: (memory / 16).clamp(32, 1024),
        max_wal: (disk / 20).clamp(256, 8192),
        max_slot_wal,
        archive_queue: max_slot_wal / 16,
        redis_memory,
        redis_backlog: (memory / 64).clamp(16, 256),
        redis_replica_buffer: (redis_memory / replicas.max(1) as u64).max(256),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_fit_small_and_large_machines() {
        for (memory, disk) in [(512, 4096), (1024, 4096), (2048, 10240), (4096, 40960), (262144, 4194304)] {
            let mut machine = MachineFacts::example("eth0", 24);
            (machine.memory_mib, machine.data_mib) = (memory, disk);
            let size = sizes(&machine, 2);
            assert!(size.shared_buffers + size.redis_memory <= memory / 2, "{size:?}");
            assert!(size.max_wal + size.max_slot_wal <= disk / 4, "{size:?}");
            assert!(size.redis_backlog * 4 <= size.redis_memory, "{size:?}");
            assert!(size.redis_replica_buffer == 256 || 2 * size.redis_replica_buffer <= size.redis_memory);
        }
    }
}

//! PostgreSQL 12, Patroni 2.1.0, Redis 6.0, HAProxy 2.2, Keepalived 2.1 and systemd 247 under Ubuntu 20.04's names: the
//! tests of [`crate::cluster`] on this target.

use crate::cluster::{self, LISTS};
use crate::support::lab::Lab;
use crate::support::schedule::{self, Shared};
use crate::support::{fixture, workdir_alone, workdir_without_turn};

fn cluster() -> Shared {
    schedule::shared("cluster_ubuntu", || {
        let lab = Lab::new(workdir_without_turn(), &fixture::ubuntu_20_04(), &LISTS);
        lab.up(&[]);
        lab
    })
}

#[test]
#[ignore = "minutes: make test-targets"]
fn a_first_node_waits_for_its_peers_then_all_bootstrap() {
    let workdir = workdir_alone();
    cluster::bootstraps_one_after_the_other(&Lab::new(workdir, &fixture::ubuntu_20_04(), &LISTS));
}

#[test]
#[ignore = "minutes: make test-targets"]
fn services_serve_clients_and_nobody_else() {
    let lab = cluster();
    cluster::shows_healthy_services(&lab);
    cluster::exports_metrics(&lab);
    cluster::serves_clients(&lab);
    cluster::creates_a_database_in_an_english_locale(&lab);
    cluster::keeps_strangers_out(&lab);
    cluster::hides_secrets(&lab);
}

#[test]
#[ignore = "minutes: make test-targets"]
fn failover_by_hand_shutdown_and_power_cut_keeps_all_data() {
    let lab = cluster();
    cluster::moves_roles_by_hand(&lab);
    cluster::fails_over_at_a_clean_shutdown(&lab);
    cluster::fails_over_at_a_power_cut(&lab);
    cluster::survives_a_power_cut_of_all_nodes(&lab);
}

#[test]
#[ignore = "minutes: make test-targets"]
fn lost_disks_are_replaced_and_chaos_passes() {
    let lab = cluster();
    cluster::replaces_lost_disks(&lab);
    cluster::passes_a_short_chaos_run(&lab);
}

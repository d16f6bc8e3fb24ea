#!/usr/bin/env bash
# Train on a Cloud TPU VM slice made with `gcloud compute tpus tpu-vm create` (one slice; for a queue: queued_resource.sh).
#
# usage: launch/tpu_vm.sh [--env FILE] [--dry-run] SUBCOMMAND [-- key=value ...]
#
#   create   make the slice, if it is not there
#   setup    ssh keys host by host, then the pinned code on every host (safe to repeat)
#   run      start the run on all hosts, in the background; says which host failed. key=value override the config
#   status   state of the slice and of the process on every host; not 0 if one failed, and says which
#   logs     [--worker N] [--lines N] [--follow]
#   stop     SIGTERM: save and end, machines stay (and are billed)
#   retry    after a preemption or a failure: same run name, same workdir, --resume
#   watch    status every WATCH_SECONDS, retry after each preemption, until the run ends
#   delete   delete the slice and check that it is gone. Checkpoints stay in BUCKET
#
# settings (environment or --env FILE, see launch/env.sh.example): PROJECT ZONE RUN_NAME BUCKET CAPACITY
#   ACCELERATOR_TYPE RUNTIME_VERSION TPU_WORKERS ENTJAX_REPO ENTJAX_REF CONFIG have no default;
#   COORDINATOR_PORT INIT_TIMEOUT COMPILE_CACHE PROBE_SECONDS WATCH_SECONDS MAX_RETRIES GRACE_SECONDS SAVE_SECONDS have one.
# exit codes: 2 a setting is wrong (nothing was run), 3 quota, 4 no capacity, 1 something failed.
set -euo pipefail

HERE=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
. "$HERE/lib.sh"
. "$HERE/tpu_common.sh"

READY=READY
GONE="PREEMPTED TERMINATED STOPPED"

# shellcheck disable=SC2153 # ZONE comes from the environment and is not GONE
describe() { # describe FORMAT
  gcloud compute tpus tpu-vm describe "$RUN_NAME" "--project=$PROJECT" "--zone=$ZONE" "--format=value($1)"
}

tpu_state() {
  if [ "$DRY_RUN" = 1 ]; then
    quote gcloud compute tpus tpu-vm describe "$RUN_NAME" "--project=$PROJECT" "--zone=$ZONE" "--format=value(state)"
  else
    state_of describe state
  fi
}

tpu_addresses() { describe 'networkEndpoints[].ipAddress'; }

tpu_ssh() { # tpu_ssh NODE WORKER COMMAND; there is one slice, so NODE is not used
  run gcloud compute tpus tpu-vm ssh "$RUN_NAME" "--project=$PROJECT" "--zone=$ZONE" "--worker=$2" \
    --ssh-flag=-oServerAliveInterval=30 --ssh-flag=-oServerAliveCountMax=10 --ssh-flag=-oConnectTimeout=30 \
    "--command=$3"
}

cmd_create() {
  local state=NOT_FOUND
  if [ "$DRY_RUN" = 1 ]; then
    note "create only if this answers NOT_FOUND"
    tpu_state
  else
    state=$(tpu_state)
  fi
  case $state in
    NOT_FOUND) ;;
    PREEMPTED | TERMINATED | STOPPED)
      die "'$RUN_NAME' is in state $state: use retry, which makes it again and resumes." 1
      ;;
    *)
      log "'$RUN_NAME' is already there (state $state); nothing to create."
      return 0
      ;;
  esac
  create_or_explain gcloud compute tpus tpu-vm create "$RUN_NAME" "--project=$PROJECT" "--zone=$ZONE" \
    "--accelerator-type=$ACCELERATOR_TYPE" "--version=$RUNTIME_VERSION" ${CAPACITY_FLAG[@]+"${CAPACITY_FLAG[@]}"}
}

cmd_delete() {
  local state
  if [ "$DRY_RUN" = 1 ]; then
    note "delete only if this does not answer NOT_FOUND"
    tpu_state
  else
    state=$(tpu_state)
    if [ "$state" = NOT_FOUND ]; then
      log "'$RUN_NAME' is not there; nothing to delete."
      return 0
    fi
  fi
  run gcloud compute tpus tpu-vm delete "$RUN_NAME" "--project=$PROJECT" "--zone=$ZONE" --quiet
  if [ "$DRY_RUN" = 1 ]; then return 0; fi
  state=$(tpu_state)
  [ "$state" = NOT_FOUND ] || die "'$RUN_NAME' is still there (state $state) and may still be billed. Delete it again." 1
  log "'$RUN_NAME' is deleted."
}

parse_common "$@"
case $COMMAND in
  logs) settings_for logs ;; # has options of its own
  *) settings_for "$COMMAND" ${REST[@]+"${REST[@]}"} ;;
esac
[ "$NUM_SLICES" = 1 ] || die "NUM_SLICES=$NUM_SLICES: a TPU VM is one slice. Use launch/queued_resource.sh for several."
"cmd_$COMMAND" ${REST[@]+"${REST[@]}"}

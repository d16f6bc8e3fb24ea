#!/usr/bin/env bash
# Train on Cloud TPU slices asked for as a queued resource: one or several slices, spot, reserved or on demand.
#
# usage: launch/queued_resource.sh [--env FILE] [--dry-run] SUBCOMMAND [-- key=value ...]
#
#   create   [--wait] put the request into the queue, if it is not there; --wait until the slices are ACTIVE
#   setup    ssh keys host by host, then the pinned code on every host (safe to repeat)
#   run      start the run on all hosts of all slices, in the background; says which host failed
#   status   state of the request and of the process on every host; not 0 if one failed, and says which
#   logs     [--node N] [--worker N] [--lines N] [--follow]
#   stop     SIGTERM: save and end, machines stay (and are billed)
#   retry    after a preemption or a failure: same run name, same workdir, --resume
#   watch    status every WATCH_SECONDS, retry after each preemption, until the run ends
#   delete   delete request and slices, and check that they are gone. Checkpoints stay in BUCKET
#
# settings (environment or --env FILE, see launch/env.sh.example): PROJECT ZONE RUN_NAME BUCKET CAPACITY
#   ACCELERATOR_TYPE RUNTIME_VERSION TPU_WORKERS (hosts of one slice) ENTJAX_REPO ENTJAX_REF CONFIG have no default;
#   NUM_SLICES (1) VALID_UNTIL (how long to stay in the queue, e.g. 6h) CREATE_TIMEOUT POLL_SECONDS and those of tpu_vm.sh have one.
# exit codes: 2 a setting is wrong (nothing was run), 3 quota, 4 no capacity, 1 something failed.
set -euo pipefail

HERE=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
. "$HERE/lib.sh"
. "$HERE/tpu_common.sh"

READY=ACTIVE
GONE="SUSPENDED SUSPENDING FAILED"
CREATE_TIMEOUT=${CREATE_TIMEOUT:-86400}
POLL_SECONDS=${POLL_SECONDS:-30}

# shellcheck disable=SC2153 # ZONE comes from the environment and is not GONE
tpu_state() {
  local words=(gcloud compute tpus queued-resources describe "$RUN_NAME" "--project=$PROJECT" "--zone=$ZONE"
    "--format=value(state.state)")
  if [ "$DRY_RUN" = 1 ]; then quote "${words[@]}"; else state_of "${words[@]}"; fi
}

node_id() { if [ "$NUM_SLICES" = 1 ]; then echo "$RUN_NAME"; else echo "$RUN_NAME-$1"; fi; }

tpu_addresses() {
  gcloud compute tpus tpu-vm describe "$(node_id "$1")" "--project=$PROJECT" "--zone=$ZONE" \
    '--format=value(networkEndpoints[].ipAddress)'
}

tpu_ssh() { # tpu_ssh NODE WORKER COMMAND
  run gcloud compute tpus queued-resources ssh "$RUN_NAME" "--project=$PROJECT" "--zone=$ZONE" "--node=$1" "--worker=$2" \
    --ssh-flag=-oServerAliveInterval=30 --ssh-flag=-oServerAliveCountMax=10 --ssh-flag=-oConnectTimeout=30 \
    "--command=$3"
}

wait_until_active() {
  local state left=$CREATE_TIMEOUT
  while :; do
    state=$(tpu_state)
    case $state in
      ACTIVE) return 0 ;;
      FAILED | SUSPENDED | NOT_FOUND)
        die "the request '$RUN_NAME' ended in state $state. Ask why with: $(quote gcloud compute tpus queued-resources \
describe "$RUN_NAME" "--project=$PROJECT" "--zone=$ZONE"); then retry." "$EXIT_CAPACITY"
        ;;
    esac
    [ "$left" -gt 0 ] || die "still $state after CREATE_TIMEOUT=$CREATE_TIMEOUT s. The request stays in the queue and is \
billed once it is ACTIVE: delete it if you do not want that." "$EXIT_CAPACITY"
    log "state $state; looking again in $POLL_SECONDS s"
    sleep "$POLL_SECONDS"
    left=$((left - (POLL_SECONDS > 0 ? POLL_SECONDS : 1)))
  done
}

cmd_create() { # create [--wait]
  local state=NOT_FOUND
  local nodes=("--node-id=$RUN_NAME")
  if [ "$NUM_SLICES" != 1 ]; then nodes=("--node-count=$NUM_SLICES" "--node-prefix=$RUN_NAME"); fi
  local until=()
  if [ -n "${VALID_UNTIL-}" ]; then until=("--valid-until-duration=$VALID_UNTIL"); fi
  if [ "$DRY_RUN" = 1 ]; then
    note "create only if this answers NOT_FOUND"
    tpu_state
  else
    state=$(tpu_state)
  fi
  case $state in
    NOT_FOUND)
      create_or_explain gcloud compute tpus queued-resources create "$RUN_NAME" "--project=$PROJECT" "--zone=$ZONE" \
        "${nodes[@]}" "--accelerator-type=$ACCELERATOR_TYPE" "--runtime-version=$RUNTIME_VERSION" \
        ${CAPACITY_FLAG[@]+"${CAPACITY_FLAG[@]}"} ${until[@]+"${until[@]}"}
      ;;
    SUSPENDED | SUSPENDING | FAILED)
      die "'$RUN_NAME' is in state $state: use retry, which makes it again and resumes." 1
      ;;
    *) log "'$RUN_NAME' is already there (state $state); nothing to create." ;;
  esac
  case ${1-} in
    "") return 0 ;;
    --wait) ;;
    *) die "create does not know '$1'. See --help." ;;
  esac
  if [ "$DRY_RUN" = 1 ]; then
    note "then wait until the state is ACTIVE"
    return 0
  fi
  wait_until_active
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
  # --force takes the slices along with the request; without it an ACTIVE request cannot be deleted.
  run gcloud compute tpus queued-resources delete "$RUN_NAME" "--project=$PROJECT" "--zone=$ZONE" --force --quiet
  if [ "$DRY_RUN" = 1 ]; then return 0; fi
  state=$(tpu_state)
  [ "$state" = NOT_FOUND ] || die "'$RUN_NAME' is still there (state $state) and may still be billed. Delete it again." 1
  log "'$RUN_NAME' is deleted."
}

parse_common "$@"
case $COMMAND in
  logs | create) settings_for "$COMMAND" ;; # have options of their own
  *) settings_for "$COMMAND" ${REST[@]+"${REST[@]}"} ;;
esac
need_number CREATE_TIMEOUT 0 604800
need_number POLL_SECONDS 0 3600
"cmd_$COMMAND" ${REST[@]+"${REST[@]}"}

# shellcheck shell=bash
# What tpu_vm.sh and queued_resource.sh share: setup, run, logs, status, stop, retry and watch over the hosts of a slice.
# Sourced after lib.sh. The caller defines: tpu_state, tpu_ssh NODE WORKER COMMAND, tpu_addresses NODE,
# cmd_create, cmd_delete, READY (the state in which hosts can be reached) and GONE (states after a preemption).

WORKER_SCRIPT=entjax/launch/worker.sh

tpu_settings() { # everything is checked before anything happens
  NUM_SLICES=${NUM_SLICES:-1}
  require PROJECT "id of the Google Cloud project that pays"
  require ZONE "zone, e.g. us-east5-b"
  need_run_name
  need_match PROJECT '[a-z][-a-z0-9:.]{4,60}[a-z0-9]' "a Google Cloud project id"
  need_match ZONE '[a-z]+-[a-z0-9]+-[a-z]' "a zone such as us-east5-b"
  need_number NUM_SLICES 1 1024
}

create_settings() {
  require ACCELERATOR_TYPE "accelerator type, e.g. v5litepod-16"
  require RUNTIME_VERSION "software version of the TPU VM, e.g. v2-alpha-tpuv5-lite"
  require CAPACITY "spot, on-demand or reserved: it decides what you pay and whether you can be preempted"
  need_match CAPACITY 'spot|on-demand|reserved' "spot, on-demand or reserved"
  # shellcheck disable=SC2034 # read by the script that sources this file
  CAPACITY_FLAG=()
  # shellcheck disable=SC2034
  if [ "${CAPACITY-}" != on-demand ]; then CAPACITY_FLAG=("--${CAPACITY-}"); fi
}

host_settings() {
  require TPU_WORKERS "number of hosts (VMs) of one slice; a v5litepod-16 has 4"
  need_number TPU_WORKERS 1 4096
}

setup_settings() {
  host_settings
  require ENTJAX_REPO "address that the hosts can git clone"
  require ENTJAX_REF "commit or tag to install; never a branch, or hosts and retries may differ"
  need_match ENTJAX_REF '[0-9a-f]{7,40}|v?[0-9]+(\.[0-9]+)+[-.a-z0-9]*' "a commit or a version tag (a branch moves)"
  need_extra
  need_match ENTJAX_FILES 'gs://[-A-Za-z0-9._/]+( gs://[-A-Za-z0-9._/]+)*' "Cloud Storage folders separated by spaces"
}

run_settings() {
  host_settings
  need_bucket
  need_distributed
  COMPILE_CACHE=${COMPILE_CACHE:-$BUCKET/compile-cache}
  PROBE_SECONDS=${PROBE_SECONDS:-20}
  need_number PROBE_SECONDS 0 600
  train_words ${@+"$@"}
}

settings_for() { # settings_for COMMAND [OVERRIDES...]
  local command=$1
  shift
  tpu_settings
  case $command in
    create) create_settings ;;
    setup) setup_settings ;;
    run) run_settings ${@+"$@"} ;;
    retry | watch)
      create_settings
      setup_settings
      run_settings ${@+"$@"}
      WATCH_SECONDS=${WATCH_SECONDS:-60}
      MAX_RETRIES=${MAX_RETRIES:-100}
      need_number WATCH_SECONDS 0 86400
      need_number MAX_RETRIES 0 100000
      ;;
    status | logs | stop) host_settings ;;
    delete) ;;
    *) die "unknown sub-command '$command'. See --help." ;;
  esac
  case $command in
    run | retry | watch) ;;
    *) [ $# -eq 0 ] || die "'$command' takes no '$1'. See --help." ;;
  esac
  check_settings
}

check_reachable() { # refuse to start on part of a slice: jax would wait for the missing hosts
  if [ "$DRY_RUN" = 1 ]; then return 0; fi
  local state node count
  state=$(tpu_state)
  [ "$state" = "$READY" ] || die "'$RUN_NAME' is in state $state, not $READY: create it (or retry), then try again." 1
  node=0
  while [ "$node" -lt "$NUM_SLICES" ]; do
    count=$(tpu_addresses "$node" | tr ';,' '[\n*]' | grep -c . || true)
    [ "$count" = "$TPU_WORKERS" ] || die "slice $node has $count hosts but TPU_WORKERS=$TPU_WORKERS. Starting would wait \
for hosts that do not exist. Correct TPU_WORKERS. Nothing was started." 1
    node=$((node + 1))
  done
}

each_worker() { # each_worker FUNCTION: call it with NODE WORKER for every host
  local node=0 worker
  while [ "$node" -lt "$NUM_SLICES" ]; do
    worker=0
    while [ "$worker" -lt "$TPU_WORKERS" ]; do
      "$1" "$node" "$worker"
      worker=$((worker + 1))
    done
    node=$((node + 1))
  done
}

warm_one() { tpu_ssh "$1" "$2" true; }

cmd_setup() {
  check_reachable
  # The first ssh to a host makes and spreads a key. With --worker=all many of them do it at once and some fail.
  note "ssh keys, one host after the other"
  each_worker warm_one
  note "the same pinned code and packages on every host"
  local clone checkout
  clone="test -d entjax/.git || git clone --quiet $(quote "$ENTJAX_REPO") entjax"
  checkout="git -C entjax fetch --quiet --tags origin; git -C entjax checkout --quiet --detach $(quote "$ENTJAX_REF")"
  local files=""
  if [ -n "${ENTJAX_FILES-}" ]; then files="; gcloud storage cp --quiet --recursive --no-clobber $ENTJAX_FILES entjax"; fi
  tpu_ssh all all "set -e; $clone; $checkout; env ENTJAX_EXTRA=$ENTJAX_EXTRA bash $WORKER_SCRIPT setup$files"
}

remote_start() { # the command that each host runs; worker.sh detaches it from the ssh session
  local settings
  settings=$(quote env "JAX_COORDINATOR_PORT=$COORDINATOR_PORT" "JAX_COMPILATION_CACHE_DIR=$COMPILE_CACHE" \
    "LOG_URL=$WORKDIR/logs")
  printf '%s bash %s start %s -- %s' "$settings" "$WORKER_SCRIPT" "$RUN_NAME" \
    "$(quote "${TRAIN[@]}" --distributed auto --init-timeout "$INIT_TIMEOUT")"
}

cmd_run() {
  check_reachable
  note "start on all hosts at once, in the background"
  tpu_ssh all all "$(remote_start)"
  note "ask every host whether its process lives"
  run sleep "$PROBE_SECONDS"
  probe
  end_others
  report_verdict
}

end_others() { # one host failed: the rest would wait for it, billed, until the initialisation time-out
  if [ "${VERDICT-}" != failed ]; then return 0; fi
  log "ending the run on the other hosts too."
  tpu_ssh all all "bash $WORKER_SCRIPT stop $RUN_NAME 30" >&2 || true
}

probe_one() { # sort what one host says into FINISHED, FAILED, INTERRUPTED, ABSENT, UNREACHABLE
  local answer
  local question="if test -f $WORKER_SCRIPT; then bash $WORKER_SCRIPT status $RUN_NAME; else echo absent; fi"
  if [ "$DRY_RUN" = 1 ]; then
    tpu_ssh "$1" "$2" "$question"
    return 0
  fi
  answer=$(tpu_ssh "$1" "$2" "$question" 2>/dev/null | tail -n 1) || answer=unreachable
  answer=${answer:-unreachable}
  printf 'slice %s worker %s: %s\n' "$1" "$2" "$answer"
  case $answer in
    running) ;;
    "exited 0") FINISHED=$((FINISHED + 1)) ;;
    "exited $EXIT_RESUME" | lost) INTERRUPTED="$INTERRUPTED slice $1 worker $2 ($answer);" ;;
    "exited "*) FAILED="$FAILED slice $1 worker $2 ($answer);" ;;
    absent) ABSENT=$((ABSENT + 1)) ;;
    *) UNREACHABLE="$UNREACHABLE slice $1 worker $2;" ;;
  esac
}

probe() { # ask all hosts; the answer is in VERDICT
  FINISHED=0 ABSENT=0 FAILED="" INTERRUPTED="" UNREACHABLE=""
  each_worker probe_one
  local total=$((NUM_SLICES * TPU_WORKERS))
  if [ -n "$FAILED" ]; then
    VERDICT=failed
  elif [ -n "$UNREACHABLE" ]; then
    VERDICT=unreachable
  elif [ -n "$INTERRUPTED" ]; then
    VERDICT=interrupted
  elif [ "$FINISHED" = "$total" ]; then
    VERDICT=finished
  elif [ "$ABSENT" = "$total" ]; then
    VERDICT=absent
  elif [ "$ABSENT" -gt 0 ]; then
    VERDICT=interrupted INTERRUPTED=" $ABSENT of $total hosts have no process of this run;"
  else
    VERDICT=running
  fi
}

report_verdict() {
  if [ "$DRY_RUN" = 1 ]; then return 0; fi
  case $VERDICT in
    running) log "'$RUN_NAME' runs on all hosts. It needs no ssh session. You are billed until 'delete'." ;;
    finished) log "'$RUN_NAME' has finished on all hosts. You are billed until 'delete'." ;;
    absent) die "'$RUN_NAME' was not started on these hosts: use setup and run (or retry)." 1 ;;
    interrupted) die "interrupted, not failed:$INTERRUPTED use retry; it continues from the last checkpoint." 1 ;;
    unreachable) die "no answer from$UNREACHABLE the other hosts were not touched." 1 ;;
    failed) die "failed:$FAILED see '$(basename "$0") logs --worker N', correct the cause, then retry." 1 ;;
  esac
}

cmd_status() {
  if [ "$DRY_RUN" = 1 ]; then
    tpu_state
    probe
    return 0
  fi
  local state
  state=$(tpu_state)
  echo "state: $state"
  case " $GONE NOT_FOUND " in
    *" $state "*) die "'$RUN_NAME' has no machines (state $state): use retry; it keeps the run name and resumes." 1 ;;
  esac
  if [ "$state" = "$READY" ]; then
    probe
    report_verdict
  fi
}

cmd_logs() { # logs [--worker N] [--node N] [--lines N] [--follow]
  local worker=0 node=0 lines=100 follow=""
  while [ $# -gt 0 ]; do
    case $1 in
      --worker) need_value "$@" && worker=$2 && shift ;;
      --node) need_value "$@" && node=$2 && shift ;;
      --lines) need_value "$@" && lines=$2 && shift ;;
      --follow) follow=" follow" ;;
      *) die "logs does not know '$1'. See --help." ;;
    esac
    shift
  done
  need_number worker 0 $((TPU_WORKERS - 1))
  need_number node 0 $((NUM_SLICES - 1))
  need_number lines 1 1000000
  tpu_ssh "$node" "$worker" "bash $WORKER_SCRIPT logs $RUN_NAME $lines$follow"
}

cmd_stop() {
  need_grace
  tpu_ssh all all "bash $WORKER_SCRIPT stop $RUN_NAME $GRACE_SECONDS"
}

recreate() {
  cmd_delete
  cmd_create --wait
  cmd_setup
  cmd_run
}

cmd_retry() { # the same RUN_NAME, hence the same workdir, hence --resume finds the checkpoint
  if [ "$DRY_RUN" = 1 ]; then
    note "if the machines are gone (preempted): make them again; if they are there: only setup and run"
    recreate
    return 0
  fi
  local state
  state=$(tpu_state)
  case " $GONE NOT_FOUND " in
    *" $state "*)
      log "'$RUN_NAME' is in state $state: making the machines again under the same name."
      recreate
      return 0
      ;;
  esac
  [ "$state" = "$READY" ] || die "'$RUN_NAME' is in state $state; wait until it is $READY, then retry." 1
  probe
  case $VERDICT in
    running | finished) report_verdict ;;
    unreachable) report_verdict ;;
    *)
      log "starting '$RUN_NAME' again with --resume (it was $VERDICT:$INTERRUPTED$FAILED)"
      tpu_ssh all all "bash $WORKER_SCRIPT stop $RUN_NAME 60" >&2 || true
      cmd_setup
      cmd_run
      ;;
  esac
}

needs_retry() { # needs_retry STATE: preempted machines, or processes that saved and ended
  case " $GONE NOT_FOUND " in *" $1 "*) return 0 ;; esac
  [ "$1" = "$READY" ] || return 1
  probe >&2
  [ "$VERDICT" = interrupted ] || [ "$VERDICT" = absent ]
}

cmd_watch() { # look after the run until it ends: preemption -> retry; failure -> stop with its code
  if [ "$DRY_RUN" = 1 ]; then
    note "every $WATCH_SECONDS s: status; after a preemption: the following, at most $MAX_RETRIES times"
    recreate
    return 0
  fi
  local tries=0 state code
  while :; do
    VERDICT=""
    state=$(tpu_state) || state=UNKNOWN # a lost network here must not end the watch
    if needs_retry "$state"; then
      tries=$((tries + 1))
      [ "$tries" -le "$MAX_RETRIES" ] || die "gave up after $MAX_RETRIES retries (MAX_RETRIES)." 1
      log "retry $tries of at most $MAX_RETRIES (state $state)"
      code=0
      "$0" retry -- ${@+"$@"} || code=$?
      case $code in
        0 | "$EXIT_CAPACITY") ;;
        "$EXIT_QUOTA") exit "$code" ;;
        *) log "retry ended with code $code; looking again in $WATCH_SECONDS s." ;;
      esac
    fi
    case $VERDICT in
      finished)
        report_verdict
        return 0
        ;;
      failed)
        end_others
        report_verdict
        ;;
    esac
    sleep "$WATCH_SECONDS"
  done
}

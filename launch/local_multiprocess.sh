#!/usr/bin/env bash
# Run N processes of one training run on this machine (CPU, gloo), each with K forced CPU devices, and look after them:
# if one dies, the rest are ended within a bound, with a message and a code that is not 0.
#
# usage: launch/local_multiprocess.sh -n N -k K [options] [-- COMMAND ...]
#   e.g. launch/local_multiprocess.sh -n 2 -k 4 --restart 3 -- entjax train configs/quickstart.py --workdir runs/try
#
#   -n, --processes N   number of processes
#   -k, --devices K     CPU devices of each process
#   --restart R         after a death or a preemption, start all of them again with --resume, at most R times (0)
#   --port P            port of the coordinator, the same for all (8476)
#   --log-dir DIR       one log a process (a new folder under the temporary folder)
#   --end-within S      after a death: SIGTERM to the rest, SIGKILL after S seconds (30)
#   --grace S           after a SIGTERM to this script, or when a process ends with 143: time for the save (120)
#   --stragglers S      the processes end together: more than S seconds after the first is a failure (300)
#   --init-timeout S    time for the processes to find each other (300)
#   --dry-run           print the commands
#
# COMMAND gets --coordinator, --num-processes, --process-id and --init-timeout; after a restart also --resume.
# Codes: 0 all ended well; 143 all saved after a SIGTERM and want to be resumed; 2 wrong usage (never restarted);
# otherwise the code of the process that failed first.
set -euo pipefail

HERE=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
. "$HERE/lib.sh"

PROCESSES="" DEVICES="" RESTART=0 PORT=8476 LOG_DIR="" END_WITHIN=30 GRACE=120 STRAGGLERS=300 INIT_TIMEOUT=300
WORDS=()
PIDS=()  # process ids of this attempt, by process number
CODES=() # their exit codes, "" while they run
STOP=""  # set when this script was asked to end

parse() {
  while [ $# -gt 0 ]; do
    case $1 in
      -h | --help) help_from_header && exit 0 ;;
      -n | --processes) need_value "$@" && PROCESSES=$2 && shift ;;
      -k | --devices) need_value "$@" && DEVICES=$2 && shift ;;
      --restart) need_value "$@" && RESTART=$2 && shift ;;
      --port) need_value "$@" && PORT=$2 && shift ;;
      --log-dir) need_value "$@" && LOG_DIR=$2 && shift ;;
      --end-within) need_value "$@" && END_WITHIN=$2 && shift ;;
      --grace) need_value "$@" && GRACE=$2 && shift ;;
      --stragglers) need_value "$@" && STRAGGLERS=$2 && shift ;;
      --init-timeout) need_value "$@" && INIT_TIMEOUT=$2 && shift ;;
      --dry-run) DRY_RUN=1 ;;
      --)
        shift
        WORDS=(${@+"$@"})
        break
        ;;
      *) die "'$1' is not known; the command to run comes after --. See --help." ;;
    esac
    shift
  done
}

check() {
  require PROCESSES "number of processes (-n)"
  require DEVICES "CPU devices of each process (-k)"
  check_settings
  need_number PROCESSES 1 64
  need_number DEVICES 1 256
  need_number RESTART 0 1000000
  need_number PORT 1024 65535
  need_number END_WITHIN 0 3600
  need_number GRACE 0 7200
  need_number STRAGGLERS 1 86400
  need_number INIT_TIMEOUT 1 86400
  [ ${#WORDS[@]} -gt 0 ] || die "nothing to run: give a command after --, e.g. -- entjax train CONFIG --workdir DIR."
  [ "$DRY_RUN" = 1 ] || command -v "${WORDS[0]}" >/dev/null || die "the command '${WORDS[0]}' is not found on PATH."
  if [ "$DRY_RUN" = 0 ] && (: <"/dev/tcp/127.0.0.1/$PORT") 2>/dev/null; then
    die "port $PORT is in use, perhaps by a run that still lives. End it, or give another --port. Nothing was run."
  fi
  LOG_DIR=${LOG_DIR:-${TMPDIR:-/tmp}/entjax-local-$$}
}

environment() { # the same for all processes; exported for real runs, printed in a dry run
  local flags
  flags=$(printf '%s' "${XLA_FLAGS-}" | sed 's/--xla_force_host_platform_device_count=[0-9]*//; s/^ *//; s/ *$//')
  export XLA_FLAGS="${flags:+$flags }--xla_force_host_platform_device_count=$DEVICES"
  export JAX_PLATFORMS=cpu JAX_CPU_COLLECTIVES_IMPLEMENTATION=gloo
  local name
  for name in $(env | sed -n 's/^\(MEGASCALE_[A-Za-z0-9_]*\)=.*/\1/p'); do unset "$name"; done
}

process_words() { # process_words I ATTEMPT: the command of one process, in ONE
  ONE=("${WORDS[@]}" --coordinator "127.0.0.1:$PORT" --num-processes "$PROCESSES" --process-id "$1"
    --init-timeout "$INIT_TIMEOUT")
  case " ${WORDS[*]} " in *" --resume "*) return 0 ;; esac
  if [ "$2" -gt 0 ]; then ONE+=(--resume); fi
}

dry_run() {
  local i=0
  quote mkdir -p "$LOG_DIR"
  while [ "$i" -lt "$PROCESSES" ]; do
    process_words "$i" 0
    printf '%s >>%s 2>&1 &\n' "$(quote env "JAX_PLATFORMS=$JAX_PLATFORMS" \
      "JAX_CPU_COLLECTIVES_IMPLEMENTATION=$JAX_CPU_COLLECTIVES_IMPLEMENTATION" "XLA_FLAGS=$XLA_FLAGS" "${ONE[@]}")" \
      "$(quote "$LOG_DIR/process-$i.log")"
    i=$((i + 1))
  done
  echo wait
}

launch() { # launch ATTEMPT
  local i=0
  PIDS=() CODES=()
  mkdir -p "$LOG_DIR"
  # Each process leads a group of its own, so that its children (the verifiers) can be ended with it.
  set -m
  while [ "$i" -lt "$PROCESSES" ]; do
    process_words "$i" "$1"
    if [ "$i" = 0 ]; then
      "${ONE[@]}" </dev/null > >(exec tee -a "$LOG_DIR/process-0.log") 2>&1 &
    else
      "${ONE[@]}" </dev/null >>"$LOG_DIR/process-$i.log" 2>&1 &
    fi
    PIDS[i]=$!
    CODES[i]=""
    i=$((i + 1))
  done
  set +m
  log "attempt $(($1 + 1)): $PROCESSES processes x $DEVICES devices, pids ${PIDS[*]}, logs in $LOG_DIR"
}

collect() { # note who has ended: fills CODES; LEFT is how many still run, ENDED who ended since the last call
  local i=0
  LEFT=0 ENDED=""
  while [ "$i" -lt "$PROCESSES" ]; do
    if [ -z "${CODES[i]}" ]; then
      if kill -0 "${PIDS[i]}" 2>/dev/null; then
        LEFT=$((LEFT + 1))
      else
        CODES[i]=0
        wait "${PIDS[i]}" 2>/dev/null || CODES[i]=$?
        ENDED="$ENDED $i"
      fi
    fi
    i=$((i + 1))
  done
}

signal_rest() { # signal_rest TERM: to the processes (they pass it on); KILL: to their whole groups
  local i=0
  while [ "$i" -lt "$PROCESSES" ]; do
    if [ "$1" = KILL ]; then
      kill -KILL -- "-${PIDS[i]}" 2>/dev/null || true
    elif [ -z "${CODES[i]}" ]; then
      kill "-$1" "${PIDS[i]}" 2>/dev/null || true
    fi
    i=$((i + 1))
  done
}

wait_rest() { # wait_rest SECONDS: true when nobody is left
  local end=$((SECONDS + $1))
  while :; do
    collect
    [ "$LEFT" -gt 0 ] || return 0
    [ "$SECONDS" -lt "$end" ] || return 1
    sleep 0.2
  done
}

describe_code() {
  if [ "$1" = "$EXIT_RESUME" ]; then
    echo "code 143 (SIGTERM: saved, to be resumed)"
  elif [ "$1" -gt 128 ]; then
    echo "code $1 (killed by signal $(($1 - 128)))"
  else
    echo "code $1"
  fi
}

end_rest() { # nobody may be left behind: SIGTERM, then SIGKILL
  [ "$LEFT" -gt 0 ] || return 0
  log "ending the other $LEFT process(es) (SIGTERM, SIGKILL after $END_WITHIN s)"
  signal_rest TERM
  wait_rest "$END_WITHIN" || log "$LEFT process(es) did not end; SIGKILL"
}

report_first() { # who ended badly first: sets CODE; a killed process is the cause rather than one that lost its peer
  local i worst=""
  for i in $ENDED; do
    [ "${CODES[i]}" != 0 ] || continue
    log "process $i (pid ${PIDS[i]}) ended with $(describe_code "${CODES[i]}")"
    if [ -z "$worst" ] || [ "${CODES[i]}" -gt "${CODES[worst]}" ]; then worst=$i; fi
  done
  [ -n "$worst" ] || return 1
  CODE=${CODES[worst]}
  if [ "$CODE" != "$EXIT_RESUME" ]; then
    log "last lines of $LOG_DIR/process-$worst.log:"
    tail -n 20 "$LOG_DIR/process-$worst.log" >&2 2>/dev/null || true
  fi
}

asked_to_end() { # SIGTERM to this script: let everyone save
  log "SIGTERM: passing it on; up to $GRACE s for the save"
  signal_rest TERM
  if ! wait_rest "$GRACE"; then log "$LEFT process(es) did not end within $GRACE s; SIGKILL"; fi
  signal_rest KILL
  wait_rest 5 || true
  local i=0
  CODE=0
  while [ "$i" -lt "$PROCESSES" ]; do # a failure outweighs 143, and 143 outweighs 0
    case ${CODES[i]} in
      0) ;;
      "$EXIT_RESUME") if [ "$CODE" = 0 ]; then CODE=$EXIT_RESUME; fi ;;
      *) CODE=${CODES[i]:-137} ;;
    esac
    i=$((i + 1))
  done
}

supervise() { # one attempt; its result is in CODE
  local first_end=""
  CODE=0
  while :; do
    if [ -n "$STOP" ]; then
      asked_to_end
      return 0
    fi
    collect
    if [ -n "$ENDED" ] && report_first; then
      # After a preemption everyone has been told and saves; after a death the rest can only wait for the dead.
      if [ "$CODE" = "$EXIT_RESUME" ]; then wait_rest "$GRACE" || true; fi
      end_rest
      break
    fi
    [ "$LEFT" -gt 0 ] || break
    if [ -n "$ENDED" ] && [ -z "$first_end" ]; then first_end=$SECONDS; fi
    if [ -n "$first_end" ] && [ $((SECONDS - first_end)) -ge "$STRAGGLERS" ]; then
      log "$LEFT process(es) still run $STRAGGLERS s after the first has finished"
      CODE=1
      end_rest
      break
    fi
    sleep 0.2
  done
  signal_rest KILL # what the processes may have left running
}

main() {
  parse "$@"
  check
  environment
  if [ "$DRY_RUN" = 1 ]; then
    dry_run
    return 0
  fi
  trap 'STOP=1' TERM INT HUP
  trap 'if [ ${#PIDS[@]} -gt 0 ]; then signal_rest KILL; fi' EXIT
  local attempt=0
  while :; do
    launch "$attempt"
    supervise
    if [ "$CODE" = 0 ] || [ "$CODE" = "$EXIT_USAGE" ] || [ -n "$STOP" ] || [ "$attempt" -ge "$RESTART" ]; then break; fi
    attempt=$((attempt + 1))
    log "starting all processes again with --resume (restart $attempt of at most $RESTART)"
  done
  if [ "$CODE" != 0 ]; then log "ended with $(describe_code "$CODE"). Logs: $LOG_DIR"; fi
  return "$CODE"
}

main "$@"

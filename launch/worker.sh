#!/usr/bin/env bash
# Runs on a TPU host: start, watch and end the training process of one run, independent of any ssh session.
#
# usage: worker.sh SUBCOMMAND [RUN_NAME] [...]
#
#   setup                        make the Python environment (pinned; safe to repeat)
#   start RUN_NAME -- COMMAND    start COMMAND in the background; does nothing if it already runs
#   status RUN_NAME              one word: running, exited CODE, lost (the host restarted), absent
#   logs RUN_NAME [LINES] [follow]
#   stop RUN_NAME [SECONDS]      SIGTERM, wait for the save, SIGKILL after SECONDS (600)
#
# options: --help, --dry-run (prints what setup and start would run)
# settings: ENTJAX_RUNS (folder for logs and process ids), LOG_URL (Cloud Storage folder that gets a copy of the log),
#   ENTJAX_EXTRA (optional packages that setup installs: tpu,gcs,tasks)
set -euo pipefail

RUNS=${ENTJAX_RUNS:-$HOME/entjax-runs}
VENV=${ENTJAX_VENV:-$HOME/entjax-venv}
UV_VERSION=0.13.8
PYTHON_VERSION=3.12
REPO=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
# shellcheck source=lib.sh
. "$REPO/launch/lib.sh"

process_alive() { # a live supervisor of this run, not some other process that got its number after a reboot
  local pid
  pid=$(cat "$DIR/supervisor.pid" 2>/dev/null) || return 1
  kill -0 "$pid" 2>/dev/null && ps -o args= -p "$pid" | grep -q "worker.sh supervise $NAME "
}

cmd_setup() {
  local modules="entjax, jax"
  need_extra
  case ,$ENTJAX_EXTRA, in *,gcs,*) modules="$modules, gcsfs" ;; esac
  case ,$ENTJAX_EXTRA, in *,tasks,*) modules="$modules, math_verify" ;; esac
  run python3 -m pip install --quiet --user "uv==$UV_VERSION"
  run python3 -m uv venv --quiet --allow-existing --python "$PYTHON_VERSION" "$VENV"
  run python3 -m uv pip install --quiet --python "$VENV/bin/python" --editable "${REPO}[$ENTJAX_EXTRA]"
  # Only imports: asking for devices on one host of a slice would wait for the other hosts.
  run "$VENV/bin/python" -c "import $modules; print('entjax ready, jax', jax.__version__)"
}

cmd_start() {
  [ "${1-}" = "--" ] && shift
  [ $# -gt 0 ] || die "start needs a command after --."
  if process_alive; then
    echo "already running"
    return 0
  fi
  # A host that was part of a multi-slice job before a preemption may still carry its addresses, and jax would wait
  # for a slice that never comes. The true values are read from the metadata server.
  local name
  for name in $(env | sed -n 's/^\(MEGASCALE_[A-Za-z0-9_]*\)=.*/\1/p'); do unset "$name"; done
  if [ "$DRY_RUN" = 1 ]; then
    quote setsid nohup bash "$REPO/launch/worker.sh" supervise "$NAME" -- "$@"
    return 0
  fi
  mkdir -p "$DIR"
  rm -f "$DIR/exit_code" "$DIR/supervisor.pid"
  cd "$REPO"
  export PATH="$VENV/bin:$PATH"
  setsid nohup bash "$REPO/launch/worker.sh" supervise "$NAME" -- "$@" </dev/null >>"$DIR/log.txt" 2>&1 &
  local tries=0
  until [ -s "$DIR/supervisor.pid" ] || [ "$tries" -ge 100 ]; do
    sleep 0.1
    tries=$((tries + 1))
  done
  [ -s "$DIR/supervisor.pid" ] || die "the process did not start within 10 s; see $DIR/log.txt." 1
  echo "started"
}

copy_log() { gcloud storage cp --quiet "$DIR/log.txt" "$LOG_URL/$(hostname).log" >/dev/null 2>&1 || true; }

cmd_supervise() { # the background process: waits for the training process and writes down how it ended
  [ "${1-}" = "--" ] && shift
  local child="" copier="" code=0
  trap '[ -z "$child" ] || kill -TERM "$child" 2>/dev/null || true' TERM INT
  "$@" &
  child=$!
  echo "$child" >"$DIR/child.pid"
  echo $$ >"$DIR/supervisor.pid"
  if [ -n "${LOG_URL-}" ]; then
    (while sleep 60; do copy_log; done) &
    copier=$!
  fi
  while :; do # wait returns early when the trap runs: wait again until the process is really gone
    code=0
    wait "$child" || code=$?
    kill -0 "$child" 2>/dev/null || break
  done
  echo "worker.sh: $NAME ended with code $code"
  echo "$code" >"$DIR/exit_code.part" && mv "$DIR/exit_code.part" "$DIR/exit_code"
  [ -z "$copier" ] || kill "$copier" 2>/dev/null || true
  [ -z "${LOG_URL-}" ] || copy_log
}

cmd_status() {
  if process_alive; then
    echo "running"
  elif [ -s "$DIR/exit_code" ]; then
    echo "exited $(cat "$DIR/exit_code")"
  elif [ -d "$DIR" ]; then
    echo "lost"
  else
    echo "absent"
  fi
}

cmd_logs() {
  [ -r "$DIR/log.txt" ] || die "no log of '$NAME' on this host." 1
  if [ "${2-}" = follow ]; then
    exec tail -n "${1:-100}" -f "$DIR/log.txt"
  fi
  exec tail -n "${1:-100}" "$DIR/log.txt"
}

cmd_stop() {
  local left=${1:-600}
  if process_alive; then
    kill -TERM "$(cat "$DIR/supervisor.pid")"
    while process_alive && [ "$left" -gt 0 ]; do
      sleep 1
      left=$((left - 1))
    done
    if process_alive; then
      log "no end after SIGTERM; SIGKILL. The last complete checkpoint is what remains."
      kill -KILL "$(cat "$DIR/child.pid")" 2>/dev/null || true
      sleep 1
    fi
  fi
  cmd_status
}

main() {
  case ${1-} in
    "" | -h | --help)
      help_from_header
      return 0
      ;;
    --dry-run)
      DRY_RUN=1
      shift
      ;;
  esac
  local command=${1-}
  shift || true
  if [ "$command" != setup ]; then
    NAME=${1-}
    [ -n "$NAME" ] || die "'$command' needs the name of the run."
    shift
    DIR=$RUNS/$NAME
  fi
  case $command in
    setup | start | supervise | status | logs | stop) "cmd_$command" ${@+"$@"} ;;
    *) die "unknown sub-command '$command'. See --help." ;;
  esac
}

main "$@"

# shellcheck shell=bash
# Shared helpers of the launch scripts: logging, checked settings, and a runner that can print instead of run.
# Sourced, never executed. Written for bash 3.2 and later, because that is what a laptop may have.

DRY_RUN=${DRY_RUN:-0}
MISSING=""

# Exit codes that callers (and `watch`) can tell apart.
EXIT_USAGE=2    # a setting is missing or wrong; nothing was run
EXIT_QUOTA=3    # the cloud refused: quota. Waiting does not help
EXIT_CAPACITY=4 # the cloud refused: no machine free now. Waiting may help
EXIT_RESUME=143 # 128 + SIGTERM: the run saved itself and wants to be resumed
export EXIT_USAGE EXIT_QUOTA EXIT_CAPACITY EXIT_RESUME

log() { printf '%s: %s\n' "$(basename "$0")" "$*" >&2; }

die() { # die MESSAGE [CODE]
  log "error: $1"
  exit "${2:-$EXIT_USAGE}"
}

help_from_header() { # print the comment block at the top of the calling script
  awk 'NR == 1 { next } /^#SBATCH/ { next } /^#/ { sub(/^# ?/, ""); print; next } { exit }' "$0"
}

quote() { # the words as one line that can be pasted into a shell
  local word out=""
  for word in "$@"; do
    case $word in
      "" | *[!A-Za-z0-9_@%+=:,./~-]* | "~"*) word="'$(printf '%s' "$word" | sed "s/'/'\\\\''/g")'" ;;
    esac
    out="$out${out:+ }$word"
  done
  printf '%s\n' "$out"
}

note() { # in a dry run: a comment between the printed commands
  if [ "$DRY_RUN" = 1 ]; then printf '# %s\n' "$*"; fi
}

run() { # run a command, or print it
  if [ "$DRY_RUN" = 1 ]; then quote "$@"; else "$@"; fi
}

load_env() { # load_env FILE: settings as shell assignments; they reach child processes
  [ -r "$1" ] || die "cannot read the settings file '$1'. Copy launch/env.sh.example and fill it in."
  set -a
  # shellcheck disable=SC1090
  . "$1"
  set +a
}

require() { # require NAME MEANING: remember what is missing; check_settings reports all of it at once
  local value
  eval "value=\${$1-}"
  case $MISSING in *"
  $1: "*) return 0 ;; esac
  if [ -z "$value" ]; then
    MISSING="$MISSING
  $1: $2"
  fi
}

check_settings() {
  if [ -n "$MISSING" ]; then
    die "these settings have no value, and have no default on purpose:$MISSING
Set them in the environment or in a file given with --env (see launch/env.sh.example). Nothing was run."
  fi
}

need_match() { # need_match NAME EXTENDED_REGEX MEANING; an empty value is for require to report
  local value
  eval "value=\${$1-}"
  [ -n "$value" ] || return 0
  printf '%s\n' "$value" | grep -Eq "^($2)\$" || die "$1='$value' is not $3. Nothing was run."
}

need_number() { # need_number NAME LOW HIGH
  local value
  eval "value=\${$1-}"
  [ -n "$value" ] || return 0
  need_match "$1" '[0-9]{1,9}' "a whole number from $2 to $3"
  if [ "$value" -lt "$2" ] || [ "$value" -gt "$3" ]; then
    die "$1=$value is out of range: give a whole number from $2 to $3. Nothing was run."
  fi
}

need_run_name() { # the name is the identity of the run: the same name resumes, another name starts anew
  require RUN_NAME "name of the run; the same name resumes the same run, e.g. steer-7b-a"
  need_match RUN_NAME '[a-z]([-a-z0-9]{0,38}[a-z0-9])?' \
    "a name of at most 40 lower-case letters, digits and dashes that starts with a letter"
  if printf '%s\n' "${RUN_NAME-}" | grep -Eq '20[0-9]{2}-?[01][0-9]-?[0-3][0-9]|[0-9]{10}'; then
    die "RUN_NAME='$RUN_NAME' looks like it holds a date or a time stamp. A retry would then get another name and start \
from step 0 instead of resuming. Use a fixed name such as 'steer-7b-a'. Nothing was run."
  fi
}

need_bucket() { # checkpoints of a run on several hosts must be where every host can write
  require BUCKET "Cloud Storage folder that all hosts can write, e.g. gs://my-bucket/entjax"
  BUCKET=${BUCKET-}
  BUCKET=${BUCKET%/}
  need_match BUCKET 'gs://[a-z0-9][-a-z0-9._]{1,61}[a-z0-9](/[-A-Za-z0-9._/]+)?' \
    "a Cloud Storage folder (gs://bucket/folder). A local disk is lost with the machine, and is not shared between hosts"
  WORKDIR=$BUCKET/runs/${RUN_NAME-}
}

need_grace() { # the time between SIGTERM and SIGKILL must hold one whole save
  SAVE_SECONDS=${SAVE_SECONDS:-300}
  GRACE_SECONDS=${GRACE_SECONDS:-600}
  need_number SAVE_SECONDS 1 7200
  need_number GRACE_SECONDS 1 14400
  if [ "$GRACE_SECONDS" -le "$SAVE_SECONDS" ]; then
    die "GRACE_SECONDS=$GRACE_SECONDS is not longer than one save (SAVE_SECONDS=$SAVE_SECONDS): the run would be killed \
half-way through its checkpoint. Nothing was run."
  fi
}

need_distributed() { # defaults that cannot bill anyone
  COORDINATOR_PORT=${COORDINATOR_PORT:-8476}
  INIT_TIMEOUT=${INIT_TIMEOUT:-1800}
  need_number COORDINATOR_PORT 1024 65535
  need_number INIT_TIMEOUT 10 86400
}

need_extra() { # optional packages that setup installs on a host: for buckets gcs, for verifiers of mathematics tasks
  ENTJAX_EXTRA=${ENTJAX_EXTRA:-tpu,gcs,tasks}
  need_match ENTJAX_EXTRA '[a-z]+(,[a-z]+)*' "extras of entjax separated by commas, e.g. tpu,gcs,tasks"
}

need_value() { [ $# -ge 2 ] || die "$1 needs a value."; } # need_value "$@" at an option that takes one

train_words() { # fill TRAIN with the training command; the arguments are key=value overrides
  local word
  for word in ${@+"$@"}; do
    case $word in
      [a-zA-Z_]*=*) ;;
      *) die "'$word' is not a key=value override of the config. Nothing was run." ;;
    esac
  done
  require CONFIG "config file of the run, from the root of the repository, e.g. configs/quickstart.py"
  # --resume from the first start on: it continues if there is a checkpoint and starts afresh if there is none,
  # so the same command is right for a first run and for every retry.
  # shellcheck disable=SC2034 # read by the script that sources this file
  TRAIN=(entjax train "${CONFIG-}" ${@+"$@"} --workdir "$WORKDIR" --resume)
}

explain_refusal() { # explain_refusal FILE CODE: what a failed create wrote on stderr, as advice and an exit code
  cat "$1" >&2
  if grep -Eqi 'quota|(qos|assoc)[a-z]*limit' "$1"; then
    log "error: refused because of a quota or limit of your account. Waiting does not help: ask for more of this kind of \
machine (accelerator, spot or on-demand or reserved, zone; with Slurm: account and partition), or change one of them."
    return "$EXIT_QUOTA"
  fi
  if grep -Eqi 'no more capacity|not enough resources|resource_exhausted|stockout|insufficient capacity' "$1"; then
    log "error: no capacity in this zone now. Try again later (watch does), use a queued resource, or another zone."
    return "$EXIT_CAPACITY"
  fi
  log "error: the command above failed with code $2."
  return "$2"
}

create_or_explain() { # run a command that asks for machines; turn a refusal into advice
  if [ "$DRY_RUN" = 1 ]; then
    quote "$@"
    return 0
  fi
  local err code=0
  err=$(mktemp)
  "$@" 2>"$err" || code=$?
  if [ "$code" -ne 0 ]; then
    explain_refusal "$err" "$code" || code=$?
  else
    cat "$err" >&2
  fi
  rm -f "$err"
  return "$code"
}

state_of() { # state_of COMMAND...: what it prints, or NOT_FOUND; any other refusal is an error, never "not there"
  local err out code=0
  err=$(mktemp)
  out=$("$@" 2>"$err") || code=$?
  if [ "$code" -eq 0 ]; then
    rm -f "$err"
    printf '%s\n' "${out:-UNKNOWN}"
  elif grep -Eqi 'not[_ ]?found' "$err"; then
    rm -f "$err"
    printf 'NOT_FOUND\n'
  else
    cat "$err" >&2
    rm -f "$err"
    return 1
  fi
}

parse_common() { # parse_common ARGS...: sets COMMAND, REST; handles --help, --dry-run, --env, and -- before overrides
  COMMAND=""
  REST=()
  while [ $# -gt 0 ]; do
    case $1 in
      -h | --help)
        help_from_header
        exit 0
        ;;
      --dry-run) DRY_RUN=1 ;;
      --env)
        need_value "$@"
        load_env "$2"
        shift
        ;;
      --)
        shift
        REST+=(${@+"$@"})
        break
        ;;
      *) if [ -z "$COMMAND" ]; then COMMAND=$1; else REST+=("$1"); fi ;;
    esac
    shift
  done
  [ -n "$COMMAND" ] || die "no sub-command given. See --help."
  export DRY_RUN COMMAND
}

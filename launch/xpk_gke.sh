#!/usr/bin/env bash
# Train on a GKE cluster that exists: through xpk, or with kubectl and launch/jobset.yaml (or its CPU variant).
#
# usage: launch/xpk_gke.sh [--env FILE] [--dry-run] [--via xpk|kubectl] [--cpu] SUBCOMMAND [-- key=value ...]
#
#   create   see that the cluster answers and can run JobSets. It makes no cluster: that is billed until deleted
#   setup    nothing to do: the code is in IMAGE
#   run      submit the run; does nothing if a run of this name is there
#   status   state of the run and of each pod; not 0 if one failed, and says which
#   logs     [--lines N] [--follow]   of all pods, each line with the name of its pod
#   retry    delete what is left of the run and submit it again: same run name, same workdir, --resume
#   delete   delete the run. The cluster and its nodes stay, and are billed by whoever owns them
#
# options: --via xpk (default) or kubectl; --cpu: processes on ordinary nodes (kubectl only)
# settings: RUN_NAME BUCKET CONFIG IMAGE KUBE_CONTEXT NAMESPACE have no default; with xpk also PROJECT ZONE CLUSTER TPU_TYPE;
#   with kubectl also GKE_ACCELERATOR GKE_TOPOLOGY CHIPS_PER_HOST TPU_WORKERS, or with --cpu CPU_PROCESSES CPU_DEVICES
#   CPU_MEMORY. Defaults: NUM_SLICES 1, MAX_RESTARTS 20, GRACE_SECONDS 600, SAVE_SECONDS 300, COORDINATOR_PORT 8476,
#   INIT_TIMEOUT 1800, COMPILE_CACHE BUCKET/compile-cache.
# exit codes: 2 a setting is wrong (nothing was run), 3 quota, 4 no capacity, 1 something failed.
set -euo pipefail

HERE=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
. "$HERE/lib.sh"

VIA=xpk
CPU=0

kube() { kubectl "--context=$KUBE_CONTEXT" "--namespace=$NAMESPACE" "$@"; }
kube_words() { quote kubectl "--context=$KUBE_CONTEXT" "--namespace=$NAMESPACE" "$@"; }
run_kube() { if [ "$DRY_RUN" = 1 ]; then kube_words "$@"; else kube "$@"; fi; }

cluster_settings() {
  NUM_SLICES=${NUM_SLICES:-1}
  MAX_RESTARTS=${MAX_RESTARTS:-20}
  require KUBE_CONTEXT "kubectl context of the cluster (kubectl config get-contexts); never the one that happens to be current"
  require NAMESPACE "Kubernetes namespace, e.g. default"
  if [ "$VIA" = xpk ]; then
    require PROJECT "id of the Google Cloud project that pays"
    require ZONE "zone of the cluster, e.g. us-east5-b"
    require CLUSTER "name of the GKE cluster"
  fi
  need_run_name
  need_number NUM_SLICES 1 1024
  need_number MAX_RESTARTS 0 10000
  case $VIA-$CPU in
    xpk-0 | kubectl-[01]) ;;
    xpk-1) die "--cpu goes with --via kubectl." ;;
    *) die "--via is '$VIA'; it can be xpk or kubectl." ;;
  esac
}

job_settings() { # job_settings [OVERRIDES...]
  require IMAGE "container image with entjax installed, by digest or version tag"
  if [ "$VIA" = xpk ]; then
    require TPU_TYPE "TPU type as xpk names it, e.g. v5litepod-16"
  elif [ "$CPU" = 1 ]; then
    require CPU_PROCESSES "number of processes (pods)"
    require CPU_DEVICES "forced CPU devices of each process, and CPUs asked for"
    require CPU_MEMORY "memory of each pod, e.g. 8Gi"
  else
    require GKE_ACCELERATOR "node label of the accelerator, e.g. tpu-v5-lite-podslice"
    require GKE_TOPOLOGY "topology of a slice, e.g. 4x4"
    require CHIPS_PER_HOST "chips of one host, e.g. 4"
    require TPU_WORKERS "number of hosts of one slice"
  fi
  need_bucket
  need_distributed
  need_grace
  COMPILE_CACHE=${COMPILE_CACHE:-$BUCKET/compile-cache}
  need_match IMAGE '[-a-zA-Z0-9./_]+(:[0-9]+/[-a-zA-Z0-9./_]+)?(@sha256:[0-9a-f]{64}|:[-a-zA-Z0-9._]+)' \
    "an image with a tag or a digest"
  case ${IMAGE-} in *:latest) die "IMAGE='$IMAGE': 'latest' may be other code after a restart. Give a digest or a version." ;; esac
  if [ "$VIA-$CPU" = kubectl-1 ]; then
    need_number CPU_PROCESSES 1 1000
    need_number CPU_DEVICES 1 1000
  elif [ "$VIA" = kubectl ]; then
    need_number CHIPS_PER_HOST 1 16
    need_number TPU_WORKERS 1 4096
  fi
  train_words ${@+"$@"}
  # shellcheck disable=SC2016 # Kubernetes expands it
  if [ "$CPU" = 1 ]; then # on CPU nodes nothing tells jax who the others are
    TRAIN+=(--coordinator "${RUN_NAME-}-workers-0-0.${RUN_NAME-}:$COORDINATOR_PORT" --num-processes "${CPU_PROCESSES-}"
      --process-id '$(PROCESS_ID)' --init-timeout "$INIT_TIMEOUT")
  else
    TRAIN+=(--distributed auto --init-timeout "$INIT_TIMEOUT")
  fi
}

json_list() { # the words as a JSON list, which is YAML too
  local word out=""
  for word in "$@"; do
    word=$(printf '%s' "$word" | sed 's/\\/\\\\/g; s/"/\\"/g')
    out="$out${out:+, }\"$word\""
  done
  printf '[%s]\n' "$out"
}

render() { # render FILE: replace the ${NAMES}; one that has no value is an error
  local text name value
  text=$(grep -v '^ *#' "$1")
  # shellcheck disable=SC2034 # read through eval
  TRAIN_ARGS=$(json_list "${TRAIN[@]:1}")
  for name in RUN_NAME MAX_RESTARTS NUM_SLICES TPU_WORKERS GRACE_SECONDS GKE_ACCELERATOR GKE_TOPOLOGY IMAGE TRAIN_ARGS \
    COORDINATOR_PORT COMPILE_CACHE CHIPS_PER_HOST CPU_PROCESSES CPU_DEVICES CPU_MEMORY; do
    eval "value=\${$name-}"
    if [ -n "$value" ]; then text=${text//"\${$name}"/"$value"}; fi
  done
  name=$(printf '%s\n' "$text" | grep -o '[$]{[A-Z_]*}' | head -n 1) || true
  [ -z "$name" ] || die "no value for $name in $1."
  printf '%s\n' "$text"
}

jobset_state() { state_of kube get jobset "$RUN_NAME" '--output=jsonpath={.metadata.name}:{.status.terminalState}'; }

cmd_create() {
  note "is there a cluster that can run JobSets?"
  run_kube get crd jobsets.jobset.x-k8s.io
}

cmd_setup() { log "nothing to set up: the code is in the image '${IMAGE:-IMAGE}'."; }

submit_xpk() {
  # xpk runs the command in a subshell of its wrapper and signals that subshell: `exec` turns it into entjax itself.
  create_or_explain xpk workload create "--project=$PROJECT" "--zone=$ZONE" "--cluster=$CLUSTER" "--workload=$RUN_NAME" \
    "--tpu-type=$TPU_TYPE" "--num-slices=$NUM_SLICES" "--docker-image=$IMAGE" "--max-restarts=$MAX_RESTARTS" \
    "--termination-grace-period-seconds=$GRACE_SECONDS" "--restart-on-exit-codes=$EXIT_RESUME" \
    "--env=JAX_COORDINATOR_PORT=$COORDINATOR_PORT" "--env=JAX_COMPILATION_CACHE_DIR=$COMPILE_CACHE" \
    "--command=exec $(quote "${TRAIN[@]}")"
}

submit_kubectl() {
  local file=$HERE/jobset.yaml manifest
  if [ "$CPU" = 1 ]; then file=$HERE/jobset_cpu.yaml; fi
  manifest=$(render "$file")
  if [ "$DRY_RUN" = 1 ]; then
    printf "%s <<'EOF'\n%s\nEOF\n" "$(kube_words apply --filename=-)" "$manifest"
  else
    printf '%s\n' "$manifest" | create_or_explain kube apply --filename=-
  fi
}

cmd_run() {
  if [ "$DRY_RUN" = 0 ]; then
    local state
    state=$(jobset_state)
    if [ "$state" != NOT_FOUND ]; then
      log "a run '$RUN_NAME' is in the cluster already ($state). Ask for its status, or use retry to submit it again."
      return 0
    fi
  fi
  "submit_$VIA"
}

pod_lines() { # one line a pod: name, phase, exit code
  run_kube get pods "--selector=jobset.sigs.k8s.io/jobset-name=$RUN_NAME" \
    '--output=jsonpath={range .items[*]}{.metadata.name}{" "}{.status.phase}{" "}{.status.containerStatuses[0].state.terminated.exitCode}{"\n"}{end}'
}

cmd_status() {
  if [ "$DRY_RUN" = 1 ]; then
    kube_words get jobset "$RUN_NAME" '--output=jsonpath={.metadata.name}:{.status.terminalState}'
    pod_lines
    return 0
  fi
  local state pods failed
  state=$(jobset_state)
  [ "$state" != NOT_FOUND ] || die "there is no run '$RUN_NAME' in the cluster: use run (it resumes if BUCKET holds a checkpoint)." 1
  pods=$(pod_lines)
  printf 'state: %s\n%s\n' "${state#*:}" "$pods"
  case $state in *:Completed) return 0 ;; esac
  failed=$(printf '%s\n' "$pods" | awk -v resume="$EXIT_RESUME" '$2 == "Failed" && $3 != "" && $3 != resume { print $1 " (code " $3 ")" }')
  [ -z "$failed" ] || die "failed: $(printf '%s' "$failed" | tr '\n' ' '); see logs." 1
  case $state in *:Failed) die "the run has failed for good (state $state); see logs, correct the cause, then retry." 1 ;; esac
}

cmd_logs() { # logs [--lines N] [--follow]
  local lines=100 follow=()
  while [ $# -gt 0 ]; do
    case $1 in
      --lines) need_value "$@" && lines=$2 && shift ;;
      --follow) follow=(--follow) ;;
      *) die "logs does not know '$1'. See --help." ;;
    esac
    shift
  done
  need_number lines 1 1000000
  run_kube logs "--selector=jobset.sigs.k8s.io/jobset-name=$RUN_NAME" --prefix --max-log-requests=1024 "--tail=$lines" \
    ${follow[@]+"${follow[@]}"}
}

cmd_delete() { # waits until the pods are gone, so that a new attempt cannot meet an old one
  if [ "$VIA" = xpk ]; then
    if [ "$DRY_RUN" = 0 ] && [ "$(jobset_state)" = NOT_FOUND ]; then
      log "there is no run '$RUN_NAME'; nothing to delete."
      return 0
    fi
    run xpk workload delete "--project=$PROJECT" "--zone=$ZONE" "--cluster=$CLUSTER" "--workload=$RUN_NAME" --force
  fi
  run_kube delete jobset "$RUN_NAME" --ignore-not-found --wait --cascade=foreground
}

cmd_retry() {
  cmd_delete
  cmd_run
}

parse_arguments() { # takes out --via and --cpu; the rest is common
  local words=()
  while [ $# -gt 0 ]; do
    case $1 in
      --via) need_value "$@" && VIA=$2 && shift ;;
      --cpu) CPU=1 ;;
      --)
        words+=("$@")
        break
        ;;
      *) words+=("$1") ;;
    esac
    shift
  done
  parse_common ${words[@]+"${words[@]}"}
}

parse_arguments "$@"
cluster_settings
case $COMMAND in
  run | retry) job_settings ${REST[@]+"${REST[@]}"} ;;
  logs) ;; # has options of its own
  create | setup | status | delete) [ ${#REST[@]} -eq 0 ] || die "'$COMMAND' takes no '${REST[0]}'. See --help." ;;
  *) die "unknown sub-command '$COMMAND'. See --help." ;;
esac
check_settings
"cmd_$COMMAND" ${REST[@]+"${REST[@]}"}

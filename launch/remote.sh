#!/usr/bin/env bash
# One job on one host of a TPU VM; lies beside the job's own files there.
#
#   remote.sh setup REVISION         unpacks and installs source.tar.gz
#   remote.sh start ID COMMAND...    starts the job, detached
#   remote.sh status [OFFSET]        one line, then the log from OFFSET on
#   remote.sh logs LINES             the end of the log
#   remote.sh stop                   SIGTERM, and SIGKILL after two minutes
set -euo pipefail
cd "$(dirname "$0")"
readonly PATIENCE=${PATIENCE:-120} CHUNK=500000

# Hosts of a slice are named t1v-n-...-w-0, -w-1 and so on.
worker() {
  local name
  name=$(hostname)
  name=${name%%.*}
  case $name in *-w-*) echo "${name##*-w-}" ;; *) echo 0 ;; esac
}

# Numbers of processes start anew with the host.
boot() { cat /proc/sys/kernel/random/boot_id; }

content() { cat "$1" 2>/dev/null || echo -; }

running() {
  local number since
  [ -f pid ] || return 1
  read -r number since <pid
  [ "$since" = "$(boot)" ] && kill -0 "$number" 2>/dev/null
}

state() {
  if running; then echo running
  elif [ -f stopped ]; then echo stopped
  elif [ -f exit_code ]; then echo exited
  elif [ -f pid ]; then echo lost
  else echo none
  fi
}

setup() {
  if [ "$(content installed)" = "$1" ]; then return; fi
  rm -f installed # Until all of it is there, none of it is.
  rm -rf source.new
  mkdir source.new
  tar -xzf source.tar.gz -C source.new
  echo "$1" >source.new/REVISION
  rm -rf source
  mv source.new source
  environment
  venv/bin/python -m pip install --quiet --editable './source[tpu]'
  echo "$1" >installed
}

# An image's own Python may be older than 3.11; then uv brings another.
environment() {
  if [ -x venv/bin/python ]; then return; fi
  local uv
  uv=$(command -v uv || true)
  if [ -z "$uv" ]; then
    python3 -m pip install --quiet --user uv ||
      python3 -m pip install --quiet --user --break-system-packages uv
    uv=$HOME/.local/bin/uv
  fi
  rm -rf venv
  "$uv" venv --quiet --seed --python '>=3.11,<3.13' venv
}

start() {
  if running; then return; fi
  rm -f pid exit_code stopped
  echo "$1" >id
  shift
  # With exec a signal reaches the job itself and no shell in between.
  { printf 'exec'; printf ' %q' "$@"; echo; } >command.sh
  setsid nohup bash remote.sh work >>log 2>&1 </dev/null &
  for _ in $(seq 100); do
    if [ -f pid ]; then return; fi
    sleep 0.1
  done
  echo "the job did not start: see the log" >&2
  return 1
}

work() {
  # The shell outlives a SIGTERM, so that it can note how the job ended.
  trap : TERM
  echo "$$ $(boot)" >pid.new
  mv pid.new pid
  echo "--- $(date -u +%FT%TZ) revision $(content installed)"
  local here=$PWD code=0
  # A shell of its own: what is wrong with the environment ends it alone.
  bash -ec '
    if [ -f environment ]; then
      chmod 600 environment
      set -a
      . ./environment
      set +a
    fi
    cd source
    PATH=$0/venv/bin:$PATH exec bash "$0/command.sh"
  ' "$here" || code=$?
  echo "--- $(date -u +%FT%TZ) exit code $code"
  echo "$code" >exit_code.new
  mv exit_code.new exit_code
}

status() {
  local from=${1:-} size next
  # The state first: what an ended job wrote is then in the size.
  local now
  now=$(state)
  size=$(stat -c %s log 2>/dev/null || echo 0)
  next=$size
  if [ -n "$from" ]; then
    if [ "$from" -gt "$size" ]; then from=0; fi
    if [ $((size - from)) -gt "$CHUNK" ]; then next=$((from + CHUNK)); fi
  fi
  echo "sitrain worker=$(worker) state=$now code=$(content exit_code)" \
    "size=$size next=$next id=$(content id) revision=$(content installed)"
  if [ -n "$from" ] && [ "$next" -gt "$from" ]; then
    tail -c "+$((from + 1))" log | head -c "$((next - from))" || true
  fi
}

logs() { tail -n "$1" log | sed "s/^/[$(worker)] /"; }

stop() {
  touch stopped
  if ! running; then return; fi
  local number
  read -r number _ <pid
  # Only the job itself: its helpers are needed until it has saved.
  pkill -TERM -P "$number" || true
  for _ in $(seq $((10 * PATIENCE))); do
    if ! running; then return; fi
    sleep 0.1
  done
  kill -KILL -- "-$number"
}

case ${1:-} in
  setup | start | status | logs | stop | work) "$@" ;;
  *) echo "remote.sh setup|start|status|logs|stop, not '${1:-}'" >&2; exit 2 ;;
esac

#!/usr/bin/env bash
# One job on one host of a TPU VM; lies beside the job's own files there.
#
#   remote.sh check_bucket WORKDIR   may this VM's account write there?
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

# With the account that the run will have, before minutes go into `setup`.
check_bucket() {
  local bucket object account token code
  bucket=${1#gs://}
  object=${bucket#*/}/.writable_launch
  bucket=${bucket%%/*}
  account=$(metadata service-accounts/default/email)
  token=$(metadata service-accounts/default/token | sed 's/.*"access_token" *: *"\([^"]*\)".*/\1/')
  code=$(request POST "$token" --data-binary sitrain \
    "upload/storage/v1/b/$bucket/o?uploadType=media&name=$(encode "$object")")
  if [ "$code" = 200 ]; then
    code=$(request DELETE "$token" "storage/v1/b/$bucket/o/$(encode "$object")")
  fi
  case $code in 2??) return ;; esac
  if [ "$code" != 401 ] && [ "$code" != 403 ]; then
    echo "warning: gs://$bucket was not tested (HTTP $code)" >&2
    return
  fi
  echo "error: this VM's service account ${account:-(none)} may not write to" \
    "gs://$bucket (HTTP $code): run gcloud storage buckets" \
    "add-iam-policy-binding gs://$bucket --member=serviceAccount:$account" \
    "--role=roles/storage.objectUser, or make the VM with" \
    "--create_flag=--service-account=ACCOUNT and" \
    "--create_flag=--scopes=cloud-platform" >&2
  return 1
}

metadata() {
  curl --silent --fail --max-time 20 --header "Metadata-Flavor: Google" \
    "http://metadata.google.internal/computeMetadata/v1/instance/$1" || true
}

# Prints the HTTP status, 000 without an answer. The token comes by the standard
# input: arguments of processes can be seen.
request() {
  local method=$1 token=$2
  shift 2
  local path=${*: -1}
  set -- "${@:1:$#-1}"
  printf 'header = "Authorization: Bearer %s"\n' "$token" |
    curl --silent --max-time 60 --retry 3 --output /dev/null \
      --write-out '%{http_code}' --config - --request "$method" "$@" \
      "https://storage.googleapis.com/$path" || true
}

encode() { python3 -c 'import sys
from urllib.parse import quote
print(quote(sys.argv[1], safe=""))' "$1"; }

setup() {
  touch packages.txt
  if [ "$(content installed)" = "$1" ] && cmp -s packages.txt same.txt; then
    return
  fi
  rm -f installed # Until all of it is there, none of it is.
  rm -rf source.new
  mkdir source.new
  tar -xzf source.tar.gz -C source.new
  echo "$1" >source.new/REVISION
  rm -rf source
  mv source.new source
  # Mirrors of PyPI and of Python's builds are named there, if there are any.
  set -a
  if [ -f environment ]; then . ./environment; fi
  set +a
  environment
  # After a preemption the run goes on with the versions that it began with.
  local same=()
  if [ -s packages.txt ]; then same=(--constraint packages.txt); fi
  download venv/bin/python -m pip install --quiet "${same[@]}" \
    --editable './source[text,gcs,tpu]'
  cp packages.txt same.txt
  echo "$1" >installed
}

# Its last error as one line, and what it needs of the network.
download() {
  if "$@" 2>errors; then return; fi
  cat errors >&2
  echo "error: $(grep -i error errors | tail -n 1): set-up reads PyPI and" \
    "GitHub, or mirrors that --env_file names (docs/launch.md)" >&2
  return 1
}

# An image's own Python may be older than 3.11; then uv brings another.
environment() {
  if [ -x venv/bin/python ]; then return; fi
  local uv
  uv=$(command -v uv || true)
  if [ -z "$uv" ]; then
    python3 -m pip install --quiet --user uv 2>/dev/null || download \
      python3 -m pip install --quiet --user --break-system-packages uv
    uv=$HOME/.local/bin/uv
  fi
  rm -rf venv
  download "$uv" venv --quiet --seed --python '>=3.11,<3.13' venv
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
    "size=$size next=$next id=$(content id) revision=$(content installed)" \
    "job=${PWD##*/}"
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
  check_bucket | setup | start | status | logs | stop | work) "$@" ;;
  *)
    echo "remote.sh check_bucket|setup|start|status|logs|stop, not '${1:-}'" >&2
    exit 2
    ;;
esac

/**
 * The shell that is strata-fs's parent and starts it again at once when it dies, whether or not stratad lives: a few hundred KB. It ends when strata-fs
 * ended by itself (0), when another one serves the root (3), when it cannot start (1) and when the state root is gone.
 */
export const EXIT_BUSY = 3;

/** Arguments: the lock file, the pid file (it names who became ready), then the command. Who is killed before it is ready is given some tries. */
const SCRIPT = `
lock=$1 pid=$2 tries=0
shift 2
while :; do
  "$@" &
  child=$!
  wait $child
  status=$?
  [ $status -eq 0 ] && exit 0
  [ $status -eq ${EXIT_BUSY} ] && exit ${EXIT_BUSY}
  [ -e "$lock" ] || exit $status
  ready=
  [ -e "$pid" ] && read -r ready <"$pid"
  if [ "$ready" = $child ]; then
    tries=0
  else
    [ $status -lt 128 ] && exit $status
    tries=$((tries + 1))
    [ $tries -ge 20 ] && exit $status
    [ $tries -ge 5 ] && sleep 1
  fi
done
`;

/** The command line that runs `command` so. */
export function watched(lock: string, pid: string, command: readonly string[]): [string, string[]] {
  return ['/bin/sh', ['-c', SCRIPT, 'strata-watch', lock, pid, ...command]];
}

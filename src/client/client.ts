/**
 * The typed API client: one `call` for every method of the contract. It starts the daemon when none answers, repeats a
 * request that changed nothing when the connection broke, and tells once when the daemon is of another build.
 */
import { StrataError } from '../base/index.ts';
import { buildId, daemonPaths, type Method, type Request, type Result, ROUTES } from '../daemon/contract.ts';
import { startDaemon } from './start-daemon.ts';
import { type CallOptions, isUnreachable, send } from './transport.ts';

export interface ClientOptions {
  /** The state root. */
  root: string;
  /** Start stratad when it is not there; default true. */
  start?: boolean;
  /** The daemon's main module; another one in tests. */
  main?: string | undefined;
  /** Called at most once, with a sentence, when the daemon is of another build than this program. */
  onMismatch?: (message: string) => void;
}

export interface Client {
  readonly root: string;
  call<M extends Method>(method: M, request: Request<M>, options?: CallOptions): Promise<Result<M>>;
}

export function createClient(options: ClientOptions): Client {
  const { root, start = true, main } = options;
  const { socket } = daemonPaths(root);
  let compared = false;

  const compare = (build: string) => {
    if (compared || !options.onMismatch) return;
    compared = true;
    const own = buildId();
    if (build !== own) {
      options.onMismatch(
        `stratad is build ${build}, this command is build ${own}; \`strata daemon restart\` brings them together`,
      );
    }
  };
  const attempt = async <M extends Method>(method: M, request: Request<M>, call?: CallOptions) => {
    const answer = await send(socket, method, request, call);
    compare(answer.build);
    return answer.result;
  };

  return {
    root,
    call: async (method, request, call) => {
      try {
        return await attempt(method, request, call);
      } catch (error) {
        if ((error as NodeJS.ErrnoException).code === 'EACCES') throw notRoot(error);
        const broke = error instanceof StrataError && error.code === 'DAEMON' && error.cause !== undefined;
        const repeatable = isUnreachable(error) || (broke && ROUTES[method].safe === true);
        if (!repeatable) throw error;
        if (!start) throw notRunning(root, error);
        await startDaemon({ root, main });
        return await attempt(method, request, call);
      }
    },
  };
}

function notRoot(cause: unknown): StrataError {
  return new StrataError('DENIED', 'only root may speak to stratad', { hint: 'use sudo', cause });
}

function notRunning(root: string, cause: unknown): StrataError {
  return new StrataError('DAEMON', `no stratad serves ${root}`, {
    hint: '`strata daemon start` starts it',
    cause,
  });
}

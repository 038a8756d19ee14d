/**
 * Threads of strata-fs, seen from its main thread: serving threads and the blocking pool that they share. A command
 * to a serving thread goes through a MessagePort and an eventfd, since that thread sleeps in epoll_wait, not in Node's event loop.
 */
import { availableParallelism } from 'node:os';
import { MessageChannel, Worker } from 'node:worker_threads';
import { StrataError } from '../../base/index.ts';
import { eventfd, eventfdSignal } from '../../sys/index.ts';
import type { StackSpec } from '../../vlfs/contract.ts';
import type { LoopCommand, LoopData, LoopFailure, LoopMessage, LoopReply } from '../loop/messages.ts';
import type { PoolAttach } from '../pool/pool-main.ts';
import { stackName } from '../stack-name.ts';

export interface ServingThread {
  /** VLFSs bound to it. */
  load: number;
  send<T>(command: LoopCommand): Promise<T>;
  /** Makes sure that it has the stack when it gets the commands that follow; returns its name. */
  give(stack: StackSpec): string;
}

export interface ThreadOptions {
  vlfsModule: string;
  spinUs: number;
  mostNodes?: number | undefined;
  /** Content that no VLFS shows, at the start of a serving thread. */
  quarantine: () => string[];
  /** Serving threads; default: one a core, at most four. */
  count?: number;
  onGone: (id: string, ledgerFd: number) => void;
  onLog(line: string): void;
  /** A thread died; the process cannot go on. */
  onDeath(what: string): void;
}

export interface Threads {
  serving: ServingThread[];
  /** Starts the pool, whose work waits until then: after a takeover requests are answered first, and one thread at a time takes the processor. Once. */
  startPool(): void;
  /** Resolves when the serving threads have loaded what they need, and have stored it compiled for the next process. */
  loaded(): Promise<void>;
  /** Ends all threads; mounts must be gone. */
  stop(): Promise<void>;
}

const MAX_SERVING_THREADS = 4;
/** Stacks that a thread is given before it forgets them all. */
const MOST_GIVEN = 32;
/**
 * A collection of young objects copies those that live on, and all mounts of the thread wait for it. What a first use of a stack makes lives on, so the share
 * of a collection must be small.
 */
const YOUNG_MIB = 3;
/** At most: four for slow jobs (of which one mount gets two) and one for notifies, which may wait for locks. */
const POOL_THREADS = 5;

export function failureToError(failure: LoopFailure): StrataError {
  return new StrataError(failure.code, failure.message, { hint: failure.hint });
}

export function startThreads(options: ThreadOptions): Threads {
  let stopping = false;
  const died = (what: string) => (): void => {
    if (!stopping) options.onDeath(what);
  };
  const pool: Worker[] = [];
  /** Threads of the pool that jobs wait for, in this order: the first jobs go to the first one, notifies to the last one, others come when they are asked for. */
  const asked = [0, POOL_THREADS - 1];
  const known = new Set(asked);
  /** Not yet, or one is about to be ready. */
  let poolWaits = true;
  /** What each pool thread attaches to. */
  const attachments: PoolAttach[][] = Array.from({ length: POOL_THREADS }, () => []);
  const count = options.count ?? Math.min(MAX_SERVING_THREADS, availableParallelism());
  const workers: Worker[] = [];
  const serving = Array.from({ length: count }, () => startServing());

  function startServing(): ServingThread {
    const commands = new MessageChannel();
    const commandFd = eventfd();
    const doneFd = eventfd();
    if (commandFd < 0 || doneFd < 0) throw new StrataError('IO', 'strata-fs cannot make an eventfd');
    const ports = attachments.map((list) => {
      const { port1, port2 } = new MessageChannel();
      list.push({ port: port2, doneFd });
      return port1;
    });
    const data: LoopData = {
      commands: commands.port2,
      commandFd,
      pool: ports,
      doneFd,
      spinUs: options.spinUs,
      mostNodes: options.mostNodes,
      quarantine: options.quarantine(),
      vlfsModule: options.vlfsModule,
    };
    const worker = new Worker(new URL('../loop/loop-main.ts', import.meta.url), {
      workerData: data,
      transferList: [commands.port2, ...ports],
      resourceLimits: { maxYoungGenerationSizeMb: YOUNG_MIB },
    });
    workers.push(worker);
    const waiting = new Map<number, { resolve(value: never): void; reject(error: Error): void }>();
    let seq = 1;
    const given = new Set<string>();
    worker.on('message', (reply: LoopReply) => {
      if ('event' in reply) {
        if (reply.event === 'gone') options.onGone(reply.id, reply.ledgerFd);
        else if (reply.event === 'pool') ask(reply.thread);
        else options.onLog(reply.line);
        return;
      }
      const waiter = waiting.get(reply.seq);
      waiting.delete(reply.seq);
      if ('failure' in reply) waiter?.reject(failureToError(reply.failure));
      else waiter?.resolve(reply.value as never);
    });
    worker.on('error', (error) => options.onLog(`a serving thread failed: ${error.stack}`));
    worker.on('exit', died('a serving thread'));
    function send<T>(command: LoopCommand): Promise<T> {
      return new Promise((resolve, reject) => {
        const message: LoopMessage = { seq: seq++, command };
        waiting.set(message.seq, { resolve, reject });
        commands.port1.postMessage(message);
        eventfdSignal(commandFd);
      });
    }
    function give(stack: StackSpec): string {
      const name = stackName(stack.key);
      if (given.has(name)) return name;
      const forget = given.size >= MOST_GIVEN;
      if (forget) given.clear();
      given.add(name);
      const message: LoopMessage = { seq: 0, command: { kind: 'stack', name, stack, forget } };
      commands.port1.postMessage(message);
      eventfdSignal(commandFd);
      return name;
    }
    return { load: 0, send, give };
  }

  function ask(thread: number): void {
    if (known.has(thread)) return;
    known.add(thread);
    asked.push(thread);
    if (!poolWaits) startNext();
  }

  function startNext(): void {
    const thread = asked.shift();
    poolWaits = thread !== undefined;
    if (thread === undefined || stopping) return;
    const worker = new Worker(new URL('../pool/pool-main.ts', import.meta.url));
    pool.push(worker);
    worker.on('error', (error) => options.onLog(`a pool thread failed: ${error.stack}`));
    worker.on('exit', died('a pool thread'));
    worker.once('message', startNext);
    for (const attach of attachments[thread]!) worker.postMessage(attach, [attach.port]);
  }

  return {
    serving,
    startPool: startNext,
    async loaded() {
      await Promise.all(serving.map((thread) => thread.send({ kind: 'keep-compiled' })));
    },
    async stop() {
      stopping = true;
      await Promise.all(serving.map((thread) => thread.send({ kind: 'stop' })));
      await Promise.all(pool.map((worker) => worker.terminate()));
      await Promise.all(workers.map((worker) => worker.terminate()));
    },
  };
}

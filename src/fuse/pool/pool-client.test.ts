import assert from 'node:assert/strict';
import { test } from 'node:test';
import { MessageChannel, receiveMessageOnPort } from 'node:worker_threads';
import { slowJob } from '../../vlfs/copy-up/slow-job.ts';
import type { PoolJob } from './jobs.ts';
import { createPoolClient } from './pool-client.ts';
import type { PoolRequest, PoolResult } from './pool-main.ts';

test('a further thread is asked for only when those that are there have work; notifies keep their own', () => {
  const channels = Array.from({ length: 4 }, () => new MessageChannel());
  const asked: number[] = [];
  const done: string[] = [];
  const client = createPoolClient(
    channels.map(({ port1 }) => port1),
    (thread) => asked.push(thread),
  );
  const fsync = slowJob('reply', { kind: 'fsync', fd: 0, dataOnly: false }) as PoolJob;
  const run = (what: string, job: PoolJob = fsync) => client.run({}, job, () => done.push(what));
  /** The thread of `port` answers its next job. */
  const answer = (port: number): void => {
    const { jobNo } = receiveMessageOnPort(channels[port]!.port2)!.message as PoolRequest;
    channels[port]!.port2.postMessage({ jobNo, result: 0 } satisfies PoolResult);
    client.drain();
  };
  try {
    run('first');
    answer(0);
    run('second');
    assert.deepEqual(asked, []);
    run('beside it');
    assert.deepEqual(asked, [1]);
    run('and one more');
    run('after one of them');
    assert.deepEqual(asked, [1, 2], 'the last thread is for notifies');
    run('notify', { kind: 'notify', fuseFd: -1, messages: new Uint8Array(8) });
    for (const port of [1, 2, 3, 0, 0]) answer(port);
    assert.deepEqual(done, ['first', 'beside it', 'and one more', 'notify', 'second', 'after one of them']);
  } finally {
    for (const { port1 } of channels) port1.close();
  }
});

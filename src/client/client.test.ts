import assert from 'node:assert/strict';
import { mkdirSync, mkdtempSync, rmSync } from 'node:fs';
import { createServer, type Server, type Socket } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, test } from 'node:test';
import type { ProgressEvent } from '../base/index.ts';
import { API_VERSION, daemonPaths } from '../daemon/contract.ts';
import { runDaemon } from '../daemon/daemon.ts';
import { fakeParts } from '../daemon/test-support/fake-daemon.ts';
import { createClient, findDaemon, startDaemon } from './index.ts';

const base = mkdtempSync(join(tmpdir(), 'strata-client-'));
const servers: Server[] = [];
let roots = 0;

after(() => {
  for (const server of servers) server.close();
  rmSync(base, { recursive: true, force: true });
});

function newRoot(): string {
  const root = join(base, String(++roots));
  mkdirSync(daemonPaths(root).runDir, { recursive: true });
  return root;
}

/** A server at the daemon's socket that does as `talk` says with every connection. */
async function impostor(talk: (socket: Socket) => void): Promise<string> {
  const root = newRoot();
  const server = createServer((socket) => {
    socket.on('error', () => {});
    socket.once('data', () => talk(socket));
  });
  servers.push(server);
  await new Promise<void>((resolve) => server.listen(daemonPaths(root).socket, resolve));
  return root;
}

const answer = (body: string, more = `strata-api: ${API_VERSION}\r\n`) =>
  `HTTP/1.1 200 OK\r\n${more}content-type: application/json\r\ncontent-length: ${body.length}\r\nconnection: close\r\n\r\n${body}`;

test('results, errors with their code and hint, and progress come through as they are', async () => {
  const root = newRoot();
  const daemon = await runDaemon({ root, parts: fakeParts() });
  try {
    const client = createClient({ root, start: false });
    const seen: ProgressEvent[] = [];
    const made = await client.call(
      'templateCreate',
      { name: 'web', layers: ['nginx'], from: [] },
      { onProgress: (event) => seen.push(event) },
    );
    assert.equal(made.explicit[0]?.layer, 'nginx');
    assert.deepEqual(
      seen.map((event) => event.phase),
      ['resolve', 'fetch', 'compose'],
    );
    await assert.rejects(client.call('templateCreate', { name: 'x', layers: ['main/boa'], from: [] }), {
      name: 'StrataError',
      code: 'CONFLICT',
      hint: 'remove one of them',
      data: { layers: ['main/boa', 'main/apache2'] },
    });
    const shown = await client.call('layerShow', { repo: 'r%2F', layer: 'a+b?c', version: '1:2~3&4' });
    assert.equal(shown.metadata.layer, 'a+b?c');
    assert.equal(shown.metadata.version, '1:2~3&4');
  } finally {
    await daemon.stop();
  }
});

test('without a daemon: a clear error, or one that starts', async () => {
  const root = newRoot();
  await assert.rejects(createClient({ root, start: false }).call('list', {}), { code: 'DAEMON' });
  assert.equal(await findDaemon(root), null);
  await assert.rejects(startDaemon({ root, main: '/nonexistent/main.ts' }), {
    code: 'DAEMON',
    message: /did not start: .*\/nonexistent\/main\.ts/,
  });
});

test('a daemon of another API is named, not misunderstood', async () => {
  const root = await impostor((socket) =>
    socket.end(answer('{}', 'strata-api: 99\r\nstrata-build: 9.9\r\n')),
  );
  await assert.rejects(createClient({ root }).call('list', {}), {
    code: 'DAEMON',
    message: /stratad 9\.9 speaks API 99/,
    hint: /daemon restart/,
  });
});

test('another build is told once', async () => {
  const root = await impostor((socket) =>
    socket.end(answer('{"appliances":[]}', `strata-api: ${API_VERSION}\r\nstrata-build: 0.0.1\r\n`)),
  );
  const told: string[] = [];
  const client = createClient({ root, onMismatch: (message) => told.push(message) });
  await client.call('list', {});
  await client.call('list', {});
  assert.equal(told.length, 1);
  assert.match(told[0]!, /build 0\.0\.1/);
});

test('a daemon that ends, lies or hangs gives an error, never a wait for ever', async () => {
  const ended = await impostor((socket) => socket.destroy());
  await assert.rejects(createClient({ root: ended }).call('create', { name: 'a', template: 't' }), {
    code: 'DAEMON',
    message: /ended before it answered/,
  });
  const garbage = await impostor((socket) => socket.end(answer('not json')));
  await assert.rejects(createClient({ root: garbage }).call('create', { name: 'a', template: 't' }), {
    code: 'DAEMON',
    message: /not JSON/,
  });
  const broken = await impostor((socket) =>
    socket.end(
      `HTTP/1.1 200 OK\r\nstrata-api: ${API_VERSION}\r\ncontent-type: application/x-ndjson\r\nconnection: close\r\n\r\n{"progress":{"phase":"fetch"}}\n`,
    ),
  );
  await assert.rejects(
    createClient({ root: broken }).call('create', { name: 'a', template: 't' }, { onProgress: () => {} }),
    { code: 'DAEMON' },
  );
  const hangs = await impostor(() => {});
  await assert.rejects(findDaemon(hangs, 100), { code: 'DAEMON', message: /does not answer/ });
});

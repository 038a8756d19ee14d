import assert from 'node:assert/strict';
import { once } from 'node:events';
import {
  chownSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  rmSync,
  statSync,
  symlinkSync,
  writeFileSync,
} from 'node:fs';
import http from 'node:http';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, before, test } from 'node:test';
import { until } from '../base/until.test-support.ts';
import { daemonPaths, ROUTES } from './contract.ts';
import { type RunningDaemon, runDaemon } from './daemon.ts';
import { fakeParts } from './test-support/fake-daemon.ts';
import type { FakeFleet } from './test-support/fake-fleet.ts';

const root = mkdtempSync(join(tmpdir(), 'strata-server-'));
let daemon: RunningDaemon;
let fleet: FakeFleet;

before(async () => {
  daemon = await runDaemon({
    root,
    parts: fakeParts((made) => {
      fleet = made;
    }),
  });
});
after(async () => {
  await daemon.stop();
  rmSync(root, { recursive: true, force: true });
});

interface Reply {
  status: number;
  headers: http.IncomingHttpHeaders;
  text: string;
}

function ask(
  method: string,
  path: string,
  body?: string,
  headers: Record<string, string> = {},
): Promise<Reply> {
  return new Promise((resolve, reject) => {
    const request = http.request({
      socketPath: daemonPaths(root).socket,
      method,
      path,
      headers,
      agent: false,
    });
    request.on('error', reject);
    request.on('response', async (response) => {
      let text = '';
      for await (const chunk of response) text += chunk;
      resolve({ status: response.statusCode!, headers: response.headers, text });
    });
    request.end(body);
  });
}

const JSON_TYPE = { 'content-type': 'application/json' };

test('socket and directory belong to root alone', () => {
  const { runDir, socket, pid } = daemonPaths(root);
  assert.equal(statSync(runDir).mode & 0o777, 0o700);
  assert.equal(statSync(socket).mode & 0o777, 0o600);
  assert.equal(readFileSync(pid, 'utf8'), `${process.pid}\n`);
});

test('OpenAPI 3.1 describes every route of the contract', async () => {
  const reply = await ask('GET', '/openapi.json');
  const document = JSON.parse(reply.text);
  assert.match(document.openapi, /^3\.1\./);
  const operations = new Set<string>();
  for (const path of Object.values(document.paths) as Record<string, { operationId: string }>[]) {
    for (const operation of Object.values(path)) operations.add(operation.operationId);
  }
  assert.deepEqual([...operations].sort(), Object.keys(ROUTES).sort());
  assert.equal(
    document.paths['/v1/templates'].post.requestBody.content['application/json'].schema.additionalProperties,
    false,
  );
});

test('a request is validated before the fleet sees it', async () => {
  const before = fleet.calls.length;
  for (const [method, path, body, words] of [
    ['POST', '/v1/templates', '{"name":"web"}', /^layers is missing$/],
    [
      'POST',
      '/v1/templates',
      '{"name":"web","layers":[],"from":[],"recomends":true}',
      /no field "recomends"/,
    ],
    [
      'POST',
      '/v1/templates',
      '{"name":"web","layers":["a",""],"from":[]}',
      /^entry 2 of layers must not be empty$/,
    ],
    ['POST', '/v1/appliances', '{"name":"a","template":"t","count":0}', /^count must be at least 1$/],
    ['POST', '/v1/appliances', '{"name":"a","template":"t","count":1.5}', /^count must be a whole number$/],
    ['POST', '/v1/appliances/a/mount', '{"dir":"/a","door":"back"}', /^door must be fuse or sealed$/],
    ['POST', '/v1/templates', '{"name":', /JSON/],
    ['GET', '/v1/appliances/web/diff?unknown=1', undefined, /no field "unknown"/],
    ['POST', `/v1/repos/${'x'.repeat(300)}/sync`, '{}', /^name is longer than \d+ characters$/],
  ] as const) {
    const reply = await ask(method, path, body, JSON_TYPE);
    assert.equal(reply.status, 400, `${path} ${body} ${reply.text}`);
    const { error } = JSON.parse(reply.text);
    assert.equal(error.code, 'USAGE');
    assert.match(error.message, words);
  }
  assert.equal(fleet.calls.length, before);
});

test('unknown routes answer 404, an oversized request 413', async () => {
  assert.equal((await ask('GET', '/v1/nothing')).status, 404);
  const reply = await ask('POST', '/v1/templates', undefined, {
    ...JSON_TYPE,
    'content-length': String(2 ** 30),
  }).catch((error) => error as NodeJS.ErrnoException);
  if ('status' in reply) assert.equal(reply.status, 413);
  else assert.match(String(reply.code), /EPIPE|ECONNRESET/);
});

test('a path field carries any version text', async () => {
  const reply = await ask('GET', `/v1/layers/main/g%2B%2B-12?version=${encodeURIComponent('4:12.2~rc1+b1')}`);
  const shown = JSON.parse(reply.text);
  assert.equal(shown.metadata.layer, 'g++-12');
  assert.equal(shown.metadata.version, '4:12.2~rc1+b1');
});

test('progress streams as one JSON value a line, with the result last', async () => {
  const headers = { ...JSON_TYPE, accept: 'application/x-ndjson' };
  const body = JSON.stringify({ name: 'stream', layers: ['hello'], from: [] });
  const reply = await ask('POST', '/v1/templates', body, headers);
  const lines = reply.text
    .trimEnd()
    .split('\n')
    .map((line) => JSON.parse(line));
  assert.deepEqual(
    lines.slice(0, -1).map((line) => line.progress.phase),
    ['resolve', 'fetch', 'compose'],
  );
  assert.equal(lines.at(-1).result.name, 'stream');
});

test('an error is the last line of a stream, and the status of a plain answer', async () => {
  const body = JSON.stringify({ name: 'x', layers: ['main/boa'], from: [] });
  const streamed = await ask('POST', '/v1/templates', body, { ...JSON_TYPE, accept: 'application/x-ndjson' });
  const plain = await ask('POST', '/v1/templates', body, JSON_TYPE);
  assert.equal(plain.status, 409);
  const error = JSON.parse(plain.text).error;
  assert.deepEqual(JSON.parse(streamed.text.trim()).error, error);
  assert.equal(error.code, 'CONFLICT');
  assert.equal(error.hint, 'remove one of them');
  assert.deepEqual(error.data.layers, ['main/boa', 'main/apache2']);
});

test('a programming error answers INTERNAL and leaves its stack in the log', async () => {
  const reply = await ask('POST', '/v1/templates', '{"name":"x","layers":["crash"],"from":[]}', JSON_TYPE);
  assert.equal(reply.status, 500);
  assert.equal(JSON.parse(reply.text).error.code, 'INTERNAL');
  assert.match(readFileSync(daemonPaths(root).log, 'utf8'), /TypeError: a programming error/);
});

test('work goes on when the client goes away', async () => {
  const request = http.request({
    socketPath: daemonPaths(root).socket,
    method: 'POST',
    path: '/v1/templates',
    headers: { ...JSON_TYPE, accept: 'application/x-ndjson' },
  });
  request.on('error', () => {});
  request.end(JSON.stringify({ name: 'left', layers: ['slow'], from: [] }));
  const last = async () => JSON.parse((await ask('GET', '/v1/jobs')).text).jobs.at(-1);
  await until('it is being made', async () => (await last()).target === 'left');
  assert.equal((await last()).state, 'running');
  request.destroy();
  await once(request, 'close');
  fleet.goOn();
  await until('it is made', async () => (await ask('GET', '/v1/templates/left')).status === 200);
});

test('events tell of all jobs', async () => {
  const seen: string[] = [];
  const watching = http.get({ socketPath: daemonPaths(root).socket, path: '/events' });
  const response = await new Promise<http.IncomingMessage>((resolve) => watching.on('response', resolve));
  response.on('error', () => {});
  response.on('data', (chunk) => seen.push(String(chunk)));
  await ask('POST', '/v1/templates', '{"name":"seen","layers":["a"],"from":[]}', JSON_TYPE);
  await until('the last one is told', () => seen.join('').includes('event: done'));
  watching.on('error', () => {});
  watching.destroy();
  const events = [...seen.join('').matchAll(/^event: (\w+)$/gm)].map((m) => m[1]);
  assert.deepEqual(events, ['start', 'progress', 'progress', 'progress', 'done']);
});

test('metrics count requests and durations', async () => {
  await ask('GET', '/v1/appliances');
  const reply = await ask('GET', '/metrics');
  assert.match(String(reply.headers['content-type']), /^text\/plain; version=0\.0\.4/);
  assert.match(reply.text, /^strata_requests_total\{method="list",status="200"\} \d+$/m);
  assert.match(reply.text, /^strata_request_duration_seconds_bucket\{method="list",le="\+Inf"\} \d+$/m);
  assert.match(reply.text, /^strata_appliances 0$/m);
});

test('a second daemon for the same root is refused', async () => {
  await assert.rejects(runDaemon({ root, parts: fakeParts() }), { code: 'BUSY' });
  assert.equal((await ask('GET', '/v1/ping')).status, 200);
});

test('a root of somebody else, or whose run leads elsewhere, is refused, and nothing there is changed', async () => {
  const other = mkdtempSync(join(tmpdir(), 'strata-other-'));
  try {
    const victim = join(other, 'victim');
    mkdirSync(victim, { mode: 0o755 });
    mkdirSync(join(other, 'linked'));
    symlinkSync(victim, join(other, 'linked/run'));
    mkdirSync(join(other, 'foreign'));
    chownSync(join(other, 'foreign'), 65534, 65534);
    for (const name of ['linked', 'foreign'])
      await assert.rejects(runDaemon({ root: join(other, name), parts: fakeParts() }), { code: 'DENIED' });
    assert.equal(statSync(victim).mode & 0o777, 0o755);
    assert.deepEqual(readdirSync(victim), []);
    assert.deepEqual(readdirSync(join(other, 'foreign')), []);
  } finally {
    rmSync(other, { recursive: true });
  }
});

test('the log is bounded and stays one event a line', async () => {
  const { openLog } = await import('./log.ts');
  const file = join(root, 'bounded.log');
  writeFileSync(file, '');
  const log = openLog({ file, maxBytes: 4096 });
  for (let i = 0; i < 200; i++) log('info', `line\nbreak ${i}`, { text: 'a\nb' });
  assert.ok(statSync(file).size <= 4096);
  assert.ok(statSync(`${file}.1`).size <= 4096);
  assert.match(
    readFileSync(file, 'utf8').trimEnd().split('\n').at(-1)!,
    /info line \| break 199 text="a\\nb"$/,
  );
});

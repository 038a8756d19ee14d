/**
 * One request of the API over stratad's unix socket, with node:http only. Progress lines are handed on as they come;
 * errors come back as the StrataError they were. It opens no connection that outlives the request and starts nothing.
 */
import type http from 'node:http';
import { ERROR_CODES, type ErrorCode, LIMITS, type Progress, StrataError } from '../base/index.ts';
import {
  API_HEADER,
  API_VERSION,
  BUILD_HEADER,
  type ErrorBody,
  type Method,
  pathFields,
  type Request,
  type Result,
  ROUTES,
  STREAM_TYPE,
  type StreamLine,
} from '../daemon/contract.ts';

/** Not an import statement: that touches every export of node:http, and one of them loads a whole HTTP client (30 ms). */
const { request: httpRequest } = process.getBuiltinModule('node:http');

/** Bytes of an answer, or of one line of a streamed one: a list of some hundred thousand appliances. */
const MAX_ANSWER_BYTES = 4 * LIMITS.requestBytes;

export interface CallOptions {
  onProgress?: Progress | undefined;
  /** Stops waiting; the work itself goes on in the daemon. */
  signal?: AbortSignal | undefined;
}

export interface Answer<R> {
  result: R;
  /** The daemon's build, to compare with one's own. */
  build: string;
}

/** True when nobody listens at the socket: no daemon, or one that died. The request was not sent. */
export function isUnreachable(error: unknown): boolean {
  const code = (error as NodeJS.ErrnoException | null)?.code;
  return code === 'ENOENT' || code === 'ECONNREFUSED';
}

/** Sends a request. Throws the daemon's StrataError, a system error with ENOENT or ECONNREFUSED (see isUnreachable), or DAEMON. */
export async function send<M extends Method>(
  socket: string,
  method: M,
  request: Request<M>,
  options: CallOptions = {},
): Promise<Answer<Result<M>>> {
  const route = ROUTES[method];
  const { path, body } = encode(method, request);
  const stream = route.stream === true && options.onProgress !== undefined;
  const payload = body === null ? null : Buffer.from(JSON.stringify(body));
  const response = await exchange({
    socketPath: socket,
    method: route.verb,
    path,
    agent: false,
    headers: {
      accept: stream ? STREAM_TYPE : 'application/json',
      ...(payload === null
        ? {}
        : { 'content-type': 'application/json', 'content-length': String(payload.length) }),
    },
    payload,
    signal: options.signal,
  });
  const build = String(response.headers[BUILD_HEADER] ?? '');
  const api = Number(response.headers[API_HEADER]);
  if (api !== API_VERSION) {
    response.destroy();
    throw new StrataError(
      'DAEMON',
      `stratad ${build} speaks API ${api}, this command speaks ${API_VERSION}`,
      {
        hint: '`strata daemon restart` starts the daemon of this version; mounts stay',
      },
    );
  }
  try {
    const streamed = String(response.headers['content-type']).includes(STREAM_TYPE);
    const value = streamed
      ? await readStream(response, options.onProgress)
      : await readPlain(response, response.statusCode ?? 0);
    return { result: value as Result<M>, build };
  } catch (error) {
    if (error instanceof StrataError) throw error;
    if ((error as Error).name === 'AbortError') throw error;
    throw new StrataError('DAEMON', 'the connection to stratad broke before it answered', {
      hint: 'repeat the command; what was not finished has been undone. The daemon log says more',
      cause: error,
    });
  }
}

/** The URL and body of a request: path fields are taken out, the rest goes into the query or the body. */
function encode<M extends Method>(
  method: M,
  request: Request<M>,
): { path: string; body: Record<string, unknown> | null } {
  const route = ROUTES[method];
  const rest: Record<string, unknown> = { ...request };
  let path: string = route.path;
  for (const field of pathFields(route.path)) {
    path = path.replace(`:${field}`, encodeURIComponent(String(rest[field])));
    delete rest[field];
  }
  if (route.verb === 'POST') return { path, body: rest };
  const query = new URLSearchParams();
  for (const [field, value] of Object.entries(rest)) {
    if (value !== undefined) query.append(field, String(value));
  }
  return { path: query.size > 0 ? `${path}?${query}` : path, body: null };
}

interface Exchange extends http.RequestOptions {
  payload: Buffer | null;
  signal: AbortSignal | undefined;
}

function exchange({ payload, signal, ...options }: Exchange): Promise<http.IncomingMessage> {
  return new Promise((resolve, reject) => {
    const request = httpRequest(signal ? { ...options, signal } : options);
    let connected = false;
    request.once('socket', (socket) => {
      if (socket.connecting) {
        socket.once('connect', () => {
          connected = true;
        });
      } else connected = true;
    });
    request.once('response', resolve);
    request.once('error', (error) => {
      if (!connected || error.name === 'AbortError') reject(error);
      else {
        const lost = new StrataError('DAEMON', 'stratad ended before it answered', {
          hint: 'repeat the command; what was not finished has been undone. The daemon log says more',
          cause: error,
        });
        reject(lost);
      }
    });
    request.end(payload ?? undefined);
  });
}

async function readPlain(response: http.IncomingMessage, status: number): Promise<unknown> {
  const chunks: Buffer[] = [];
  let bytes = 0;
  for await (const chunk of response) {
    bytes += (chunk as Buffer).length;
    if (bytes > MAX_ANSWER_BYTES) throw tooLong();
    chunks.push(chunk as Buffer);
  }
  const value = parse(Buffer.concat(chunks).toString('utf8'));
  if (status < 400) return value;
  throw toError(value);
}

async function readStream(
  response: http.IncomingMessage,
  onProgress: Progress | undefined,
): Promise<unknown> {
  let rest = '';
  response.setEncoding('utf8');
  for await (const chunk of response) {
    const lines = (rest + (chunk as string)).split('\n');
    rest = lines.pop()!;
    if (rest.length > MAX_ANSWER_BYTES) throw tooLong();
    for (const text of lines) {
      const line = parse(text) as StreamLine;
      if ('progress' in line) onProgress?.(line.progress);
      else if ('result' in line) return line.result;
      else throw toError(line);
    }
  }
  throw new Error('the stream ended without a result');
}

function parse(text: string): unknown {
  try {
    return JSON.parse(text);
  } catch (cause) {
    throw new StrataError('DAEMON', 'the answer of stratad is not JSON', { cause });
  }
}

function toError(value: unknown): StrataError {
  const error = (value as Partial<ErrorBody> | null)?.error;
  if (!error) return new StrataError('DAEMON', 'stratad answered with an unknown error');
  const code: ErrorCode = error.code in ERROR_CODES ? error.code : 'INTERNAL';
  return new StrataError(code, error.message, { hint: error.hint, data: error.data });
}

function tooLong(): StrataError {
  return new StrataError('LIMIT', `the answer of stratad is longer than ${MAX_ANSWER_BYTES} bytes`);
}

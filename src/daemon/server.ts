/**
 * The HTTP API on a unix socket: every route comes from ROUTES and its schemas. A streaming route answers one JSON
 * value a line when the client accepts that, else plain JSON with the status of its error. When a client goes away the work goes on.
 * It validates and reports; it decides nothing.
 */
import swagger from '@fastify/swagger';
import fastify, { type FastifyInstance, type FastifyReply, type FastifyRequest } from 'fastify';
import { asStrataError, LIMITS, noProgress, type Progress, StrataError } from '../base/index.ts';
import {
  API_HEADER,
  API_VERSION,
  BUILD_HEADER,
  type Method,
  pathFields,
  ROUTES,
  STREAM_TYPE,
} from './contract.ts';
import { registerEvents } from './event-stream.ts';
import type { Log } from './log.ts';
import { METHODS, type MethodContext, targetOf } from './methods.ts';
import type { Metrics } from './metrics.ts';
import { openStream } from './ndjson-stream.ts';
import { requestError, type SchemaFinding } from './request-errors.ts';
import { ERROR_SCHEMA, RESULT_SCHEMAS } from './result-schemas.ts';
import { REQUEST_SCHEMAS } from './schemas.ts';

export interface ServerOptions {
  context: MethodContext;
  metrics: Metrics;
  log: Log;
}

/** The server, ready to listen. */
export async function buildServer(options: ServerOptions): Promise<FastifyInstance> {
  const { context, log } = options;
  const info = context.info();
  const app = fastify({
    logger: false,
    bodyLimit: LIMITS.requestBytes,
    routerOptions: { maxParamLength: 1024 },
    forceCloseConnections: 'idle',
    ajv: { customOptions: { removeAdditional: false, coerceTypes: 'array', useDefaults: false } },
  });
  app.setSerializerCompiler(() => (data) => JSON.stringify(data));
  app.addHook('onSend', async (_request, reply, payload) => {
    reply.headers({ [API_HEADER]: API_VERSION, [BUILD_HEADER]: info.build });
    return payload;
  });
  // `curl -X POST` without a body means an empty request.
  app.addHook('preValidation', async (request) => {
    if (request.method === 'POST') request.body ??= {};
  });
  app.setErrorHandler((thrown, _request, reply) => {
    const error = fromFastify(thrown);
    if (error.code === 'INTERNAL') log('error', 'request failed', { error: stackOf(error) });
    reply.code(error.httpStatus).send({ error: error.toJSON() });
  });
  app.setNotFoundHandler((request, reply) => {
    const error = new StrataError('NOT_FOUND', `no route ${request.method} ${request.url.slice(0, 200)}`, {
      hint: 'GET /openapi.json lists the routes',
    });
    reply.code(404).send({ error: error.toJSON() });
  });
  await app.register(swagger, {
    openapi: {
      openapi: '3.1.0',
      info: {
        title: 'stratad',
        description: 'The control plane of Strata on this host.',
        version: info.version,
      },
    },
  });
  for (const method of Object.keys(ROUTES) as Method[]) registerRoute(app, method, options);
  app.get('/openapi.json', { schema: { hide: true } }, async () => app.swagger());
  registerMetrics(app, options);
  registerEvents(app, context.jobs);
  return app;
}

function registerRoute(app: FastifyInstance, method: Method, options: ServerOptions): void {
  const route = ROUTES[method];
  app.route({
    method: route.verb,
    url: route.path,
    schema: { operationId: method, summary: route.summary, ...routeSchema(method) },
    handler: async (http, reply) => {
      const begun = performance.now();
      const request = requestOf(http);
      const finish = (status: number, error?: StrataError) => {
        const elapsedMs = performance.now() - begun;
        options.metrics.observe(method, status, elapsedMs / 1000);
        if (route.safe && !error) return;
        const about = { target: targetOf(request), status, ms: Math.round(elapsedMs) };
        if (error) options.log('warn', method, { ...about, code: error.code, error: error.message });
        else options.log('info', method, about);
      };
      if (route.stream && accepts(http, STREAM_TYPE)) {
        await answerStream(method, { reply, request, options, finish });
        return reply;
      }
      try {
        const result = await perform(method, { request, context: options.context, onProgress: noProgress });
        finish(200);
        return result;
      } catch (thrown) {
        const error = asStrataError(thrown);
        finish(error.httpStatus, error);
        throw error;
      }
    },
  });
}

interface Performance {
  request: Record<string, unknown>;
  context: MethodContext;
  onProgress: Progress;
}

async function perform(method: Method, o: Performance): Promise<unknown> {
  // The schema of this very method has validated the request.
  const call = METHODS[method] as (c: MethodContext, r: unknown, p: Progress) => Promise<unknown>;
  if (!ROUTES[method].stream) return await call(o.context, o.request, noProgress);
  const about = { method, target: targetOf(o.request), onProgress: o.onProgress };
  return await o.context.jobs.run(about, (progress) => call(o.context, o.request, progress));
}

async function answerStream(
  method: Method,
  o: {
    reply: FastifyReply;
    request: Record<string, unknown>;
    options: ServerOptions;
    finish: (status: number, error?: StrataError) => void;
  },
): Promise<void> {
  const { context, log } = o.options;
  o.reply.hijack();
  const stream = openStream(o.reply.raw, {
    'content-type': STREAM_TYPE,
    [API_HEADER]: String(API_VERSION),
    [BUILD_HEADER]: context.info().build,
  });
  try {
    const result = await perform(method, { request: o.request, context, onProgress: stream.progress });
    o.finish(200);
    stream.end({ result });
  } catch (thrown) {
    const error = asStrataError(thrown);
    o.finish(error.httpStatus, error);
    if (error.code === 'INTERNAL') log('error', 'request failed', { method, error: stackOf(error) });
    stream.end({ error: error.toJSON() });
  }
}

function registerMetrics(app: FastifyInstance, options: ServerOptions): void {
  const { context, metrics } = options;
  app.get('/metrics', { schema: { hide: true } }, async (_request, reply) => {
    const status = await context.fleet.status();
    reply.type('text/plain; version=0.0.4; charset=utf-8').serializer((text: unknown) => String(text));
    return metrics.render([
      { name: 'strata_appliances', help: 'Appliances on this host.', value: status.appliances },
      { name: 'strata_templates', help: 'Templates on this host.', value: status.templates },
      { name: 'strata_mounts', help: 'Mounted file systems.', value: status.mounts },
      {
        name: 'strata_data_plane_memory_bytes',
        help: 'Resident memory of strata-fs.',
        value: status.data_plane.memory_bytes,
      },
      { name: 'strata_jobs_running', help: 'Long work in progress.', value: context.jobs.running() },
      { name: 'process_resident_memory_bytes', help: 'Of stratad.', value: process.memoryUsage.rss() },
    ]);
  });
}

/** Splits a method's request schema into what travels in the path, in the query and in the body. */
function routeSchema(method: Method): Record<string, unknown> {
  const route = ROUTES[method];
  const whole = REQUEST_SCHEMAS[method] as { properties: Record<string, unknown>; required?: string[] };
  const inPath = new Set(pathFields(route.path));
  const part = (wanted: (field: string) => boolean) => ({
    type: 'object',
    properties: Object.fromEntries(Object.entries(whole.properties).filter(([field]) => wanted(field))),
    required: (whole.required ?? []).filter(wanted),
    additionalProperties: false,
  });
  const response = { 200: RESULT_SCHEMAS[method], default: ERROR_SCHEMA };
  const rest = part((field) => !inPath.has(field));
  return {
    ...(inPath.size > 0 ? { params: part((field) => inPath.has(field)) } : {}),
    ...(route.verb === 'POST' ? { body: rest } : { querystring: rest }),
    response,
  };
}

function requestOf(http: FastifyRequest): Record<string, unknown> {
  const record = (value: unknown) => (value ?? {}) as Record<string, unknown>;
  return { ...record(http.query), ...record(http.body), ...record(http.params) };
}

function accepts(http: FastifyRequest, type: string): boolean {
  return (http.headers.accept ?? '').includes(type);
}

function fromFastify(thrown: unknown): StrataError {
  if (thrown instanceof StrataError) return thrown;
  const e = thrown as { validation?: SchemaFinding[]; statusCode?: number; message?: string };
  if (e.statusCode === 413) {
    return new StrataError('LIMIT', `the request is larger than ${LIMITS.requestBytes} bytes`);
  }
  if (e.validation) return requestError(e.validation, thrown);
  if (e.statusCode !== undefined && e.statusCode >= 400 && e.statusCode < 500) {
    return new StrataError('USAGE', e.message ?? 'the request is not valid', { cause: thrown });
  }
  return asStrataError(thrown);
}

function stackOf(error: StrataError): string {
  const cause = error.cause instanceof Error ? error.cause : error;
  return cause.stack ?? cause.message;
}

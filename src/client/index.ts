/** The face of client/: the typed client of stratad's API, and what starts stratad. */
export { type Client, type ClientOptions, createClient } from './client.ts';
export { ensureDaemon, findDaemon, type StartOptions, startDaemon, waitForExit } from './start-daemon.ts';
export type { CallOptions } from './transport.ts';

/**
 * The face of fuse/: strata-fs, the data plane, for its owner (stratad), and the protocol server for other transports. What it offers is in
 * contract.ts; how a request travels is in server/server.ts, loop/loop-main.ts and process/run-data-plane.ts.
 */
export * from './contract.ts';
export {
  connectDataPlane,
  dataPlanePid,
  killDataPlane,
  type OwnedDataPlane,
  recoverMounts,
  restartDataPlane,
  startDataPlane,
} from './process/client.ts';
export { createFuseBuffers, type FuseBuffers } from './server/buffers.ts';
export type { Features } from './server/init.ts';
export { createFuseServer, type FuseServer, type FuseServerOptions } from './server/server.ts';

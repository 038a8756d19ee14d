/** The face of daemon/: stratad. The client needs only contract.ts. */
export * from './contract.ts';
export { type DaemonParts, type DataPlaneParts, type RunningDaemon, runDaemon } from './daemon.ts';
export { REAL_PARTS } from './real-parts.ts';
export { serve } from './serve.ts';

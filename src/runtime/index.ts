/** The face of runtime/: containers on an appliance's root file system. */
export { type Bundle, prepareBundle, removeBundle } from './bundle.ts';
export {
  cleanupStale,
  forgetContainer,
  killContainer,
  listContainers,
  type RunningContainer,
} from './containers.ts';
export * from './contract.ts';
export { execInteractive } from './exec-interactive.ts';
export { ensureRuntimeTools, type RuntimeTools } from './host.ts';
export { type RunOptions, runContainer, STATUS_TIMED_OUT } from './run-container.ts';

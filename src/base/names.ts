/** The rules for names of repositories, templates, appliances and layers: safe as one path component. */
import { StrataError } from './errors.ts';
import { LIMITS } from './limits.ts';

const OBJECT_NAME = /^[A-Za-z0-9][A-Za-z0-9._+-]*$/;
const VERSION = /^[A-Za-z0-9][A-Za-z0-9.+~:_-]*$/;

/** Throws BAD_NAME unless `name` may name a repository, template, appliance or layer. `what` says which. */
export function checkObjectName(what: string, name: string): string {
  if (!OBJECT_NAME.test(name) || name.length > LIMITS.objectNameChars) {
    throw new StrataError('BAD_NAME', `${JSON.stringify(name)} is not a valid ${what} name`, {
      hint: `use letters, digits and . _ + - (first a letter or digit), at most ${LIMITS.objectNameChars} characters`,
    });
  }
  return name;
}

/** Throws BAD_NAME unless `version` is a possible version of a layer unit. */
export function checkVersion(version: string): string {
  if (!VERSION.test(version) || version.length > LIMITS.objectNameChars) {
    throw new StrataError('BAD_NAME', `${JSON.stringify(version)} is not a valid version`, {
      hint: 'versions begin with a letter or digit and contain only letters, digits and . + ~ : _ -',
    });
  }
  return version;
}

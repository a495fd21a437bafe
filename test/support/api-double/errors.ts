import { KubeError } from "../../../src/kube/client.ts";

/** Refusals with the status and reason that kube-apiserver gives. */
export const refuse = {
  badRequest: (message: string) => new KubeError(message, { status: 400, reason: "BadRequest" }),
  forbidden: (message: string) => new KubeError(message, { status: 403, reason: "Forbidden" }),
  notFound: (what: string) => new KubeError(`${what} not found`, { status: 404, reason: "NotFound" }),
  conflict: (message: string) => new KubeError(message, { status: 409, reason: "Conflict" }),
  exists: (what: string) => new KubeError(`${what} already exists`, { status: 409, reason: "AlreadyExists" }),
  expired: () => new KubeError("too old resource version", { status: 410, reason: "Expired" }),
  tooMany: (message: string) => new KubeError(message, { status: 429, reason: "TooManyRequests" }),
  internal: (message: string) => new KubeError(message, { status: 500, reason: "InternalError" }),
  invalid: (message: string) => new KubeError(message, { status: 422, reason: "Invalid" }),
};

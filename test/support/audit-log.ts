import { readFile } from "node:fs/promises";
import type { ControlPlane } from "../../tools/control-plane/control-plane.ts";

interface AuditLine {
  verb: string;
  requestURI: string;
  user: { username: string; extra?: Record<string, string[]> };
  objectRef?: { resource: string; subresource?: string; namespace?: string; name?: string };
  responseStatus?: { code: number };
  stageTimestamp: string;
}

/** A write by one of kllama's accounts that the API server took; what it answered to a dry run is none. */
export interface AcceptedWrite {
  account: string;
  /** When it was answered, as `Date.toISOString()` writes it. */
  at: string;
  /** UID of the pod that the token is bound to. */
  podUid: string | undefined;
  /** `update gangs/status`. */
  what: string;
  /** `namespace/name` of the object. */
  object: string;
}

const accounts = "system:serviceaccount:kllama-system:";
const verbs = ["create", "update", "patch", "delete", "deletecollection"];

/** kllama's writes since a moment, but for renewals of Leases. @param since as `Date.toISOString()` writes it */
export async function acceptedWrites({ auditLog }: ControlPlane, since: string): Promise<AcceptedWrite[]> {
  if (auditLog === undefined) throw new Error("the control plane was started without auditLog: true");
  const text = await readFile(auditLog, "utf8");
  return text
    .split("\n")
    .filter((line) => line.endsWith("}") && line.includes(accounts))
    .map((line) => JSON.parse(line) as AuditLine)
    .filter(
      ({ verb, user, requestURI, objectRef, responseStatus, stageTimestamp }) =>
        user.username.startsWith(accounts) &&
        verbs.includes(verb) &&
        !/[?&]dryRun=All\b/.test(requestURI) &&
        objectRef?.resource !== "leases" &&
        (responseStatus?.code ?? 500) < 300 &&
        stageTimestamp > since,
    )
    .map(({ verb, user, objectRef, stageTimestamp }) => {
      const { resource = "", subresource, namespace = "", name = "" } = objectRef ?? {};
      return {
        account: user.username.slice(accounts.length),
        at: stageTimestamp,
        podUid: user.extra?.["authentication.kubernetes.io/pod-uid"]?.[0],
        what: `${verb} ${resource}${subresource === undefined ? "" : `/${subresource}`}`,
        object: `${namespace}/${name}`,
      };
    });
}

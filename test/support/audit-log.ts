import { readFile } from "node:fs/promises";
import type { ControlPlane } from "../../tools/control-plane/control-plane.ts";

interface AuditLine {
  stage: string;
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

/** What was answered so far. The API server goes on writing meanwhile: an answer may be read before it is in its log. */
export async function auditLines({ auditLog }: ControlPlane, containing = ""): Promise<AuditLine[]> {
  if (auditLog === undefined) throw new Error("the control plane was started without auditLog: true");
  const text = await readFile(auditLog, "utf8");
  // Its last line may be half written.
  const lines = text.slice(0, text.lastIndexOf("\n") + 1).split("\n");
  return lines.filter((line) => line !== "" && line.includes(containing)).map((line) => JSON.parse(line) as AuditLine);
}

/** kllama's writes since a moment, but for renewals of Leases. @param since as `Date.toISOString()` writes it */
export async function acceptedWrites(plane: ControlPlane, since: string): Promise<AcceptedWrite[]> {
  return (await auditLines(plane, accounts))
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

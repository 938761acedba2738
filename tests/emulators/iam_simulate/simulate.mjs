// One request a line, one verdict a line: {action, resource, context, role, session} to true or false, or an object with what was wrong with it.
import { createInterface } from 'node:readline';
import { runSimulation } from '@cloud-copilot/iam-simulate';

const ACCOUNT = '111122223333';
const KEY_POLICY = {
  Version: '2012-10-17',
  Statement: [{ Effect: 'Allow', Principal: { AWS: `arn:aws:iam::${ACCOUNT}:root` }, Action: 'kms:*', Resource: '*' }],
};

for await (const line of createInterface({ input: process.stdin })) {
  const asked = JSON.parse(line);
  const found = await runSimulation(
    {
      request: {
        action: asked.action,
        principal: `arn:aws:sts::${ACCOUNT}:assumed-role/run/session`,
        resource: { resource: asked.resource, accountId: ACCOUNT },
        contextVariables: asked.context,
      },
      identityPolicies: [{ name: 'role', policy: asked.role }],
      sessionPolicy: asked.session,
      // a key lets its account's policies decide, as the console makes it; without that no policy of a role opens it
      resourcePolicy: asked.action.startsWith('kms:') ? KEY_POLICY : undefined,
      serviceControlPolicies: [],
      resourceControlPolicies: [],
    },
    {},
  );
  const verdict = found.overallResult ?? found;
  process.stdout.write(`${JSON.stringify(typeof verdict === 'string' ? verdict === 'Allowed' : { wrong: verdict })}\n`);
}

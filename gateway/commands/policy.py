"""`qcs-gateway policy …`: policies as code."""

import click

from gateway.commands.policy_checks import lint, test
from gateway.commands.policy_history import diff, suggest
from gateway.commands.policy_questions import explain, simulate

policy = click.Group("policy", help="Check policies, and ask what they decide.")
policy.add_command(lint)
policy.add_command(test)
policy.add_command(explain)
policy.add_command(simulate)
policy.add_command(diff)
policy.add_command(suggest)

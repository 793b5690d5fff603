"""Runs: an index that holds all that lists and searches ask for."""

from alembic import op

revision = "0012"
down_revision = "0011"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_index(
        "ix_runs_listed",
        "runs",
        ["project_id", "id"],
        unique=False,
        postgresql_include=["experiment_id", "kind", "state", "name"],
    )


def downgrade() -> None:
    op.drop_index("ix_runs_listed", table_name="runs")

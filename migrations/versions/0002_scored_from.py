"""Lesion components, printed tables, likely same-person scans, and what a run is scored from."""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "printed_tables",
        sa.Column("id", sa.BigInteger(), sa.Identity(always=False), nullable=False),
        sa.Column("project_id", sa.BigInteger(), nullable=False),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("content", postgresql.JSONB(astext_type=sa.Text()), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.ForeignKeyConstraint(["project_id"], ["projects.id"], name=op.f("fk_printed_tables_project_id")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_printed_tables")),
        sa.UniqueConstraint("project_id", "name", name=op.f("uq_printed_tables_project_id_name")),
    )
    op.create_table(
        "lesion_components",
        sa.Column("id", sa.BigInteger(), sa.Identity(always=False), nullable=False),
        sa.Column("run_id", sa.BigInteger(), nullable=False),
        sa.Column("part", sa.Text(), nullable=False),
        sa.Column("scan", sa.BigInteger(), nullable=False),
        sa.Column("slice", sa.BigInteger(), nullable=True),
        sa.Column("predicted", sa.Boolean(), nullable=False),
        sa.Column("number", sa.Integer(), nullable=False),
        sa.Column("pixels", sa.BigInteger(), nullable=False),
        sa.Column("iou", sa.Double(), nullable=False),
        sa.ForeignKeyConstraint(["run_id"], ["runs.id"], name=op.f("fk_lesion_components_run_id")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_lesion_components")),
    )
    op.create_index(op.f("ix_lesion_components_run_id"), "lesion_components", ["run_id"], unique=False)
    op.add_column("datasets", sa.Column("similarity", postgresql.JSONB(astext_type=sa.Text()), nullable=True))
    op.add_column("runs", sa.Column("scored_from", sa.BigInteger(), nullable=True))
    op.add_column("runs", sa.Column("predictor", sa.Text(), nullable=True))
    op.add_column("runs", sa.Column("images", sa.Text(), nullable=True))
    op.create_foreign_key(op.f("fk_runs_scored_from"), "runs", "runs", ["scored_from"], ["id"])


def downgrade() -> None:
    op.drop_constraint(op.f("fk_runs_scored_from"), "runs", type_="foreignkey")
    op.drop_column("runs", "images")
    op.drop_column("runs", "predictor")
    op.drop_column("runs", "scored_from")
    op.drop_column("datasets", "similarity")
    op.drop_index(op.f("ix_lesion_components_run_id"), table_name="lesion_components")
    op.drop_table("lesion_components")
    op.drop_table("printed_tables")
